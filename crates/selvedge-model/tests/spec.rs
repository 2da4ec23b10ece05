//! Specs as people write them in recipes, and what they are told when they write something else.

use selvedge_model::{Activation, Init, Kernel, LayerSpec, ModelSpec, Padding, Units};

fn layer(text: &str) -> Result<LayerSpec, toml::de::Error> {
    #[derive(serde::Deserialize)]
    struct Recipe {
        layers: Vec<LayerSpec>,
    }
    toml::from_str::<Recipe>(&format!("layers = [\n  {text},\n]")).map(|mut recipe| recipe.layers.remove(0))
}

#[test]
fn defaults_are_filled_in() {
    assert_eq!(
        layer(r#"{ layer = "conv2d", filters = 16, kernel = 3 }"#).unwrap(),
        LayerSpec::Conv2d {
            filters: 16,
            kernel: Kernel { height: 3, width: 3 },
            stride: 1,
            padding: Padding::Same,
            bias: true,
            init: Init::GlorotUniform,
            frozen: false
        }
    );
    assert_eq!(layer(r#"{ layer = "max_pool2d" }"#).unwrap(), LayerSpec::MaxPool2d { size: 2, stride: Some(2) });
    assert_eq!(
        layer(r#"{ layer = "avg_pool2d", size = 3 }"#).unwrap(),
        LayerSpec::AvgPool2d { size: 3, stride: Some(3) }
    );
    assert_eq!(
        layer(r#"{ layer = "batch_norm" }"#).unwrap(),
        LayerSpec::BatchNorm { momentum: 0.1, epsilon: 1e-5, scale: true }
    );
    assert_eq!(layer(r#"{ layer = "gem_pool" }"#).unwrap(), LayerSpec::GemPool { p: 3.0 });
    assert_eq!(layer(r#"{ layer = "squeeze_excitation" }"#).unwrap(), LayerSpec::SqueezeExcitation { reduction: 16 });
    assert_eq!(
        layer(r#"{ layer = "residual", layers = [] }"#).unwrap(),
        LayerSpec::Residual { layers: vec![], drop: 0.0 }
    );
}

#[test]
fn every_way_of_writing_a_value() {
    for (text, expected) in [("3", [3, 3]), ("[3, 5]", [3, 5])] {
        let conv = layer(&format!(r#"{{ layer = "conv2d", filters = 1, kernel = {text} }}"#)).unwrap();
        assert!(matches!(conv, LayerSpec::Conv2d { kernel, .. } if kernel == expected.into()), "{conv:?}");
    }
    for (text, expected) in [("\"same\"", Padding::Same), ("\"valid\"", Padding::Valid), ("1", Padding::Pixels(1))] {
        let conv = layer(&format!(r#"{{ layer = "conv2d", filters = 1, kernel = 3, padding = {text} }}"#)).unwrap();
        assert!(matches!(conv, LayerSpec::Conv2d { padding, .. } if padding == expected), "{conv:?}");
    }
    for (text, expected) in [("\"classes\"", Units::Classes), ("350", Units::Count(350))] {
        let dense = layer(&format!(r#"{{ layer = "dense", units = {text} }}"#)).unwrap();
        assert_eq!(dense, LayerSpec::Dense { units: expected, bias: true, init: Init::GlorotUniform, frozen: false });
    }
    use Init::{Dirac, FanInUniform, GlorotUniform, HeNormal, Whitening, Zeros};
    for init in [GlorotUniform, HeNormal, FanInUniform, Dirac, Zeros, Whitening] {
        let text = format!(r#"{{ layer = "dense", units = 3, init = "{init}", frozen = true }}"#);
        let expected = LayerSpec::Dense { units: Units::Count(3), bias: true, init, frozen: true };
        assert_eq!(layer(&text).unwrap(), expected);
    }
}

#[test]
fn activations_are_read_and_written_by_their_names() {
    for kind in Activation::ALL {
        let expected = LayerSpec::Activation(kind);
        assert_eq!(layer(&format!(r#"{{ layer = "{}" }}"#, kind.name())).unwrap(), expected);
        assert_eq!(expected.kind(), kind.name());
        let json = format!(r#"{{"layer":"{}"}}"#, kind.name());
        assert_eq!(serde_json::to_string(&expected).unwrap(), json);
        assert_eq!(serde_json::from_str::<LayerSpec>(&json).unwrap(), expected);
    }
}

#[test]
fn the_name_may_follow_the_options() {
    let conv = layer(r#"{ kernel = 3, filters = 16, layer = "conv2d" }"#).unwrap();
    assert_eq!(conv, layer(r#"{ layer = "conv2d", filters = 16, kernel = 3 }"#).unwrap());
    let json = r#"{"rate":0.5,"layer":"dropout"}"#;
    assert_eq!(serde_json::from_str::<LayerSpec>(json).unwrap(), LayerSpec::Dropout { rate: 0.5 });
}

#[track_caller]
fn assert_refused(text: &str, parts: &[&str]) {
    let message = layer(text).unwrap_err().to_string();
    for part in parts.iter().chain(&["line 2"]) {
        assert!(message.contains(part), "{part:?} is not in\n{message}");
    }
}

#[test]
fn mistakes_are_named_with_what_is_allowed() {
    assert_refused(r#"{ layer = "conv3d" }"#, &["conv3d", "`conv2d`", "`residual`", "`gelu`"]);
    assert_refused(r#"{ layer = "activation" }"#, &["unknown layer `activation`", "`relu`"]);
    assert_refused(r#"{ filters = 1 }"#, &["missing field `layer`"]);
    assert_refused(r#"{ layer = 3 }"#, &["integer `3`", "string"]);
    assert_refused(r#"{ layer = "conv2d", filters = 1, kernel = 3, strides = 2 }"#, &["strides", "`stride`"]);
    assert_refused(
        r#"{ layer = "dense", units = 3, init = "orthogonal" }"#,
        &["unknown variant `orthogonal`", "`glorot_uniform`", "`whitening`"],
    );
    assert_refused(r#"{ layer = "dense", units = 3, frozen = 1 }"#, &["integer `1`", "a boolean"]);
    assert_refused(r#"{ layer = "conv2d", kernel = 3 }"#, &["missing field `filters`"]);
    assert_refused(r#"{ layer = "relu", slope = 0.1 }"#, &["unknown field `slope`"]);
    assert_refused(r#"{ alpha = 0.1, layer = "relu" }"#, &["unknown field `alpha`"]);
    assert_refused(r#"{ layer = "max_pool2d", padding = 1 }"#, &["padding", "`size` or `stride`"]);
    for kernel in ["\"3\"", "[3]", "[3, 3, 3]", "-1", "1.5", "[3, -1]"] {
        let text = format!(r#"{{ layer = "conv2d", filters = 1, kernel = {kernel} }}"#);
        assert_refused(&text, &[if kernel == "[3, -1]" { "-1" } else { "[height, width]" }]);
    }
    for padding in ["\"full\"", "-1", "true"] {
        let text = format!(r#"{{ layer = "conv2d", filters = 1, kernel = 3, padding = {padding} }}"#);
        assert_refused(&text, &["\"same\", \"valid\", or a number of pixels"]);
    }
    for units in ["\"class\"", "-5"] {
        assert_refused(&format!(r#"{{ layer = "dense", units = {units} }}"#), &["a number of units, or \"classes\""]);
    }
    assert_refused("\"relu\"", &["a layer such as { layer = \"relu\" }"]);
    assert_refused(r#"{ layer = "residual", layers = [{ layer = "relu", a = 1 }] }"#, &["`a`"]);
}

#[test]
fn toml_and_json_give_back_what_they_took() {
    let text = r#"
        classes = 10
        input = { height = 28, width = 28, mean = 0.286, std = 0.353 }
        layers = [
            { layer = "conv2d", filters = 16, kernel = [3, 5], stride = 2, padding = 1, bias = false, init = "dirac" },
            { layer = "batch_norm", momentum = 0.4, scale = false },
            { layer = "gelu" },
            { layer = "residual", layers = [{ layer = "conv2d", filters = 16, kernel = 3 }, { layer = "silu" }] },
            { layer = "max_pool2d", size = 3, stride = 2 },
            { layer = "dropout", rate = 0.3 },
            { layer = "squeeze_excitation", reduction = 4 },
            { layer = "residual", layers = [{ layer = "mish" }], drop = 0.25 },
            { layer = "global_max_pool" },
            { layer = "dense", units = "classes", bias = false, frozen = true },
        ]
    "#;
    let spec: ModelSpec = toml::from_str(text).unwrap();
    let written = toml::to_string(&spec).unwrap();
    assert_eq!(toml::from_str::<ModelSpec>(&written).unwrap(), spec);
    assert!(written.contains("rate = 0.3\n") && written.contains("mean = 0.286\n"), "{written}");
    assert!(written.contains("units = \"classes\"") && written.contains("stride = 1\n"), "{written}");
    // What is not written before this version's keys is not written now.
    for (key, written_times) in [("init = \"dirac\"\n", 1), ("init", 1), ("frozen = true\n", 1), ("frozen", 1)] {
        assert_eq!(written.matches(key).count(), written_times, "{key} in {written}");
    }
    assert_eq!(written.matches("drop = ").count(), 1, "a body that is never dropped is written as before: {written}");
    let json = serde_json::to_string(&spec).unwrap();
    assert_eq!(serde_json::from_str::<ModelSpec>(&json).unwrap(), spec);
    // What is built in code without a stride is written out with one.
    let pool = serde_json::to_string(&LayerSpec::MaxPool2d { size: 3, stride: None }).unwrap();
    assert_eq!(pool, r#"{"layer":"max_pool2d","size":3,"stride":3}"#);
}
