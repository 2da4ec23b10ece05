//! [`GroupSpec`]: groups of parameters with a learning rate and a weight decay of their own, the tables `[[groups]]`.

use selvedge_model::{ParamEntry, ParamKind};
use serde::{Deserialize, Serialize};

use super::{GroupOptions, OptimizerSpec};
use crate::checks::{Range, Refusal, number};

/// One of the tables `[[groups]]`: the parameters whose name and kind fit it have their own learning rate and weight decay. Of
/// several groups that a parameter is in, the last counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupSpec {
    /// What the parameter's name, such as `0.conv2d.weight` or `1.batch_norm.beta`, must look like; `*` stands for any
    /// characters, also none. Without it, any name fits.
    #[serde(rename = "match", default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// The parameter's kind. Without it, any kind fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<GroupKind>,
    /// The factor of the learning rate, 0 or above; with 0, the parameters are not trained.
    #[serde(default = "default_rate")]
    pub rate: f64,
    /// The weight decay, 0 or above. Without it, it is the usual one: that of the optimizer for weights, none for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
}

/// What `kind` of a group can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupKind {
    /// The weights of convolutions and dense layers.
    Weight,
    /// Their biases.
    Bias,
    /// The factors after normalisations.
    Gamma,
    /// The summands after normalisations.
    Beta,
}

impl GroupKind {
    fn name(self) -> &'static str {
        match self {
            Self::Weight => "weight",
            Self::Bias => "bias",
            Self::Gamma => "gamma",
            Self::Beta => "beta",
        }
    }

    fn is(self, kind: ParamKind) -> bool {
        kind == match self {
            Self::Weight => ParamKind::Weight,
            Self::Bias => ParamKind::Bias,
            Self::Gamma => ParamKind::Gamma,
            Self::Beta => ParamKind::Beta,
        }
    }
}

impl GroupSpec {
    fn fits(&self, entry: &ParamEntry) -> bool {
        self.pattern.as_ref().is_none_or(|pattern| glob(pattern, &entry.name))
            && self.kind.is_none_or(|kind| kind.is(entry.kind))
    }
}

/// The options of a parameter: those of the optimizer, changed by the last of the groups that it is in. A parameter that the
/// optimizer does not train, whose rate is 0, stays untrained.
pub(crate) fn options(optimizer: &OptimizerSpec, groups: &[GroupSpec], entry: &ParamEntry) -> GroupOptions {
    let usual = optimizer.group_options(entry);
    match groups.iter().rev().find(|group| group.fits(entry)) {
        Some(group) => GroupOptions {
            rate_factor: usual.rate_factor * group.rate,
            weight_decay: group.weight_decay.unwrap_or(usual.weight_decay),
        },
        None => usual,
    }
}

/// Refuses values that make no sense for any network.
pub(crate) fn check(groups: &[GroupSpec]) -> Result<(), Refusal> {
    for (i, group) in groups.iter().enumerate() {
        let within = |refusal: Refusal| refusal.within(&format!("groups.{i}"));
        number("rate", group.rate, Range::NotNegative).map_err(within)?;
        number("weight_decay", group.weight_decay.unwrap_or(0.0), Range::NotNegative).map_err(within)?;
        if group.pattern.is_none() && group.kind.is_none() {
            let allowed = "a group says which parameters are in it, by `match`, by `kind` or by both";
            return Err(Refusal::new(&format!("groups.{i}"), "a group of all parameters", allowed));
        }
    }
    Ok(())
}

/// Refuses a group that none of a network's parameters is in.
pub(crate) fn check_members(groups: &[GroupSpec], entries: &[ParamEntry]) -> Result<(), Refusal> {
    let Some((i, group)) = groups.iter().enumerate().find(|(_, group)| !entries.iter().any(|entry| group.fits(entry)))
    else {
        return Ok(());
    };
    let kind = group.kind.map(GroupKind::name);
    let (key, found) = match (&group.pattern, kind) {
        (Some(pattern), None) => (format!("groups.{i}.match"), format!("{pattern:?}")),
        (None, Some(kind)) => (format!("groups.{i}.kind"), format!("{kind:?}")),
        (pattern, kind) => {
            let (pattern, kind) = (pattern.as_deref().unwrap_or("*"), kind.unwrap_or("any"));
            (format!("groups.{i}"), format!("{pattern:?} of kind {kind:?}"))
        }
    };
    let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
    let allowed = format_args!("no parameter fits; the network has {}", names.join(", ")).to_string();
    Err(Refusal::new(&key, found, allowed))
}

/// Whether `text` is `pattern`, in which `*` stands for any characters.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        // The first place leaves most for the parts that follow.
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

fn default_rate() -> f64 {
    1.0
}

#[cfg(test)]
mod tests {
    use selvedge_model::ParamLayout;

    use super::*;
    use crate::optimizer::Sgd;

    fn entry(name: &str, kind: ParamKind) -> ParamEntry {
        ParamEntry {
            name: name.to_owned(),
            range: 0..16,
            shape: vec![16],
            kind,
            frozen: false,
            layout: ParamLayout::Channels(16),
        }
    }

    fn groups(text: &str) -> Vec<GroupSpec> {
        #[derive(Deserialize)]
        struct Document {
            groups: Vec<GroupSpec>,
        }
        toml::from_str::<Document>(text).unwrap().groups
    }

    #[test]
    fn stars_stand_for_any_characters() {
        for (pattern, text, expected) in [
            ("0.conv2d.weight", "0.conv2d.weight", true),
            ("0.conv2d", "0.conv2d.weight", false),
            ("0.*", "0.conv2d.weight", true),
            ("0.*", "10.conv2d.weight", false),
            ("*.weight", "0.conv2d.weight", true),
            ("*conv2d*", "0.conv2d.weight", true),
            ("*2d*d.w*t", "0.conv2d.2d.weight", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("*a*", "bcd", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("a**b", "a-b", true),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} and {text}");
        }
    }

    #[test]
    fn the_last_group_counts_and_what_it_leaves_open_is_usual() {
        let sgd = Sgd { learning_rate: 1.0, momentum: 0.9, nesterov: true, weight_decay: 0.5 };
        let spec = OptimizerSpec::Sgd(sgd);
        let groups = groups(
            "groups = [{ kind = 'beta', rate = 64, weight_decay = 0.25 }, { match = '0.*', rate = 2.0 }, \
             { match = '*conv2d*', kind = 'bias', rate = 0 }]",
        );
        let options = |name, kind| {
            let GroupOptions { rate_factor, weight_decay } = options(&spec, &groups, &entry(name, kind));
            (rate_factor, weight_decay)
        };
        assert_eq!(options("1.batch_norm.beta", ParamKind::Beta), (64.0, 0.25));
        assert_eq!(options("0.batch_norm.beta", ParamKind::Beta), (2.0, 0.0));
        assert_eq!(options("0.conv2d.weight", ParamKind::Weight), (2.0, 0.5));
        assert_eq!(options("0.conv2d.bias", ParamKind::Bias), (0.0, 0.0));
        assert_eq!(options("3.dense.weight", ParamKind::Weight), (1.0, 0.5));
    }

    #[test]
    fn a_group_without_parameters_is_refused_with_the_names_there_are() {
        let entries = [entry("0.conv2d.weight", ParamKind::Weight), entry("0.conv2d.bias", ParamKind::Bias)];
        let refused = |text| {
            let Refusal { key, problem } = check_members(&groups(text), &entries).unwrap_err();
            format!("{key}: {problem}")
        };
        let names = "the network has 0.conv2d.weight, 0.conv2d.bias";
        let message = refused("groups = [{ match = '0.*' }, { match = '9.*' }]");
        assert!(
            message.starts_with("groups.1.match: \"9.*\" is not possible") && message.ends_with(names),
            "{message}"
        );
        let message = refused("groups = [{ kind = 'gamma' }]");
        assert!(message.starts_with("groups.0.kind: \"gamma\"") && message.ends_with(names), "{message}");
        let message = refused("groups = [{ kind = 'bias', match = '*weight' }]");
        assert!(message.starts_with("groups.0: \"*weight\" of kind \"bias\"") && message.ends_with(names), "{message}");
        assert!(check_members(&groups("groups = [{ kind = 'bias', match = '0*' }]"), &entries).is_ok());
    }
}
