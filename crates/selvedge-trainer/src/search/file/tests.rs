//! Tests of the file of a search: what it means, and the messages.

use super::*;

fn parse(text: &str) -> Result<SearchFile, SearchError> {
    SearchFile::parse("s.toml", text.to_owned(), |name| RecipeSource::find(name).map_err(|error| error.to_string()))
}

const GRID: &str = "recipe = \"seed\"\nvalidation = 6000\nseeds = [1, 2]\n\
    set.input.mean = 0.2\nset.schedule = { kind = \"cosine\" }\n\
    [values]\noptimizer.learning_rate = [\n  0.1,\n  0.2,\n]\n\"label_smoothing\" = [0.0]\n";

#[test]
fn keys_may_be_quoted_or_dotted_and_know_their_lines() {
    let file = parse(GRID).unwrap();
    let keys: Vec<&str> = file.dimensions.iter().map(|dimension| dimension.key.as_str()).collect();
    assert_eq!(keys, ["optimizer.learning_rate", "label_smoothing"]);
    let Domain::Choices(choices) = &file.dimensions[0].domain else { panic!("not a list") };
    assert_eq!(choices[1].place, "s.toml, line 9");
    let expected = [
        Override::new("validation", 6000, "s.toml, line 2"),
        Override::new("input.mean", 0.2, "s.toml, line 4"),
        Override::new("schedule", Table::from_iter([("kind".to_owned(), "cosine".into())]), "s.toml, line 5"),
    ];
    assert_eq!(file.common, expected);
}

#[test]
fn the_defaults_are_a_grid_with_one_seed() {
    let file = parse("recipe = \"seed\"\nvalidation = 0.1\n[values]\nbatch = [64]\n").unwrap();
    assert_eq!((file.seeds, file.sampling), (vec![1], Sampling::Grid));
    assert!(file.halving.is_none());
    let file = parse("recipe = \"seed\"\nvalidation = 1\nhalving.rungs = [1]\n[values]\nbatch = [64]\n").unwrap();
    assert_eq!(file.halving.unwrap().keep, 1.0 / 3.0);
}

#[test]
fn what_is_not_possible_is_refused_with_its_line() {
    let random = "recipe = \"seed\"\nvalidation = 6000\nmethod = \"random\"\ntrials = 4\n[values]\n";
    for (text, parts) in [
        (GRID.replace("6000", "0"), ["line 2: validation: 0 is not", "1 or more"]),
        (GRID.replace("6000", "-1"), ["line 2: validation:", "invalid value"]),
        (GRID.replace("validation = 6000", ""), ["s.toml: missing field", "validation"]),
        (GRID.replace("seeds", "sed"), ["line 3: sed: unknown key", "`seeds`"]),
        (GRID.replace("[1, 2]", "[]"), ["line 3: seeds: the list is empty", "[1]"]),
        (GRID.replace("[1, 2]", "[1, 1]"), ["line 3: seeds.1: 1 is there twice", "repeated"]),
        (GRID.replace("\"seed\"", "\"sed\""), ["line 1: recipe:", "neither built in nor a file"]),
        (GRID.replace("[0.0]", "[]"), ["line 11: label_smoothing: the list is empty", "one value"]),
        (GRID.replace("[0.0]", "[0, 0]"), ["line 11: label_smoothing: 0 is there twice", "repeated"]),
        (GRID.replace("[0.0]", "0.1"), ["line 11: label_smoothing: 0.1 is not", "a list of values"]),
        (GRID.replace("[0.0]", "{ min = 0, max = 1 }"), ["line 11: label_smoothing: a grid needs", "random"]),
        (GRID.replace("\"label_smoothing\"", "seed"), ["line 11: seed: `seeds` sets it", "remove"]),
        (GRID.replace("\"label_smoothing\"", "dataset"), ["line 11: dataset: trials are compared", "`set`"]),
        (GRID.replace("set.input.mean", "set.epochs") + "[halving]\nrungs = [1]", ["line 4: epochs:", "halving.rungs"]),
        (GRID.replace("\"label_smoothing\"", "input"), ["line 11: input: `input.mean` (s.toml, line 4)", "keep one"]),
        (GRID.replace("seeds", "trials = 3\nseeds"), ["line 3: trials: only random trials", "method"]),
        (GRID.replace("[1, 2]", "[1, 2"), ["s.toml, line", "column"]),
        (format!("{GRID}[halving]\nrungs = [2, 2]"), ["line 13: halving.rungs.1: 2 is not", "more epochs"]),
        (format!("{GRID}[halving]\nrungs = []"), ["line 13: halving.rungs: the list is empty", "[2, 6, 18]"]),
        (format!("{GRID}[halving]\nrungs = [2]\nkeep = 1"), ["line 14: halving.keep: 1 is not", "below 1"]),
        (format!("{GRID}[halving]\nkept = 1"), ["line 13: halving.kept: unknown key", "`rungs`"]),
        (random.to_owned(), ["line 5: values: the table is empty", "name a key"]),
        (random.replace("trials = 4", "") + "batch = [1]", ["line 3: method: random needs", "trials = 40"]),
        (random.replace('4', "0") + "batch = [1]", ["line 4: trials: 0 is not", "from 1"]),
        (format!("{random}batch = {{ min = 2, max = 2 }}"), ["line 6: batch: min = 2, max = 2", "min must be below"]),
        (format!("{random}batch = {{ min = 0, max = 2, log = true }}"), ["line 6: batch: min = 0", "above 0"]),
        (format!("{random}batch = {{ min = 0, max = 2, lg = true }}"), ["line 6: batch: unknown key `lg`", "`log`"]),
        (format!("{random}batch = {{ min = 0 }}"), ["line 6: batch: missing field", "max"]),
        (format!("{random}batch = {{ min = \"a\", max = 2 }}"), ["line 6: batch: min = \"a\"", "two numbers"]),
    ] {
        let message = parse(&text).map(drop).unwrap_err().to_string();
        for part in parts {
            assert!(message.contains(part), "{part:?} is missing from: {message}");
        }
    }
}

#[test]
fn a_grid_of_too_many_trials_is_refused() {
    let list = (0..400).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
    let text = format!("recipe = \"seed\"\nvalidation = 1\n[values]\nbatch = [{list}]\nepochs = [{list}]\n");
    assert!(parse(&text).unwrap_err().to_string().contains("more than 10000 combinations"));
}
