//! [`SeedChoice`]: which seeds to train, as `--seeds` takes it.

use std::str::FromStr;

/// The most seeds of a folder.
const MOST: u64 = 1000;

/// Seeds to train: a number of them, or a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeedChoice {
    /// This many, one after another.
    Count(u64),
    /// These.
    List(Vec<u64>),
}

impl FromStr for SeedChoice {
    type Err = String;

    /// Reads `5`, five seeds, or `1,4,7`, these three.
    fn from_str(text: &str) -> Result<Self, String> {
        let seed = |part: &str| {
            let seed = part.trim().parse().ok().filter(|&seed: &u64| i64::try_from(seed).is_ok());
            seed.ok_or_else(|| "expected a number of seeds such as 5, or seeds such as 1,4,7".to_owned())
        };
        if !text.contains(',') {
            let count = seed(text)?;
            let allowed = || format!("{count} seeds are not possible: from 1 to {MOST}");
            return if (1..=MOST).contains(&count) { Ok(Self::Count(count)) } else { Err(allowed()) };
        }
        let seeds = text.split(',').map(seed).collect::<Result<Vec<u64>, String>>()?;
        if seeds.len() as u64 > MOST {
            return Err(format!("{} seeds are not possible: from 1 to {MOST}", seeds.len()));
        }
        match (1..seeds.len()).find(|&i| seeds[..i].contains(&seeds[i])) {
            Some(i) => Err(format!("seed {} is there twice: the second run would repeat the first", seeds[i])),
            None => Ok(Self::List(seeds)),
        }
    }
}

impl SeedChoice {
    /// The seeds; a number of them counts from `first`.
    ///
    /// # Errors
    /// A sentence that says why, if the last would be too large for a recipe.
    pub fn seeds(&self, first: u64) -> Result<Vec<u64>, String> {
        match self {
            Self::List(seeds) => Ok(seeds.clone()),
            Self::Count(count) => {
                let last = first.checked_add(count - 1).filter(|&last| i64::try_from(last).is_ok());
                let last = last.ok_or_else(|| format!("{count} seeds from {first} on: the last is too large"))?;
                Ok((first..=last).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_lists() {
        let seeds = |text: &str, first| text.parse::<SeedChoice>().unwrap().seeds(first).unwrap();
        assert_eq!(seeds("3", 1), [1, 2, 3]);
        assert_eq!(seeds("2", 11), [11, 12]);
        assert_eq!(seeds("7, 1,4", 11), [7, 1, 4]);
    }

    #[test]
    fn nonsense_is_refused() {
        let refused = |text: &str| text.parse::<SeedChoice>().unwrap_err();
        for text in ["", "a", "1,", "1;2", "-1", "1,9223372036854775808"] {
            assert!(refused(text).contains("such as 1,4,7"), "{text}");
        }
        assert!(refused("0").contains("from 1 to 1000") && refused("1001").contains("from 1 to 1000"));
        assert!(refused("1,4,1").contains("seed 1 is there twice"));
        let far = SeedChoice::Count(2).seeds(i64::MAX as u64).unwrap_err();
        assert!(far.contains("too large"), "{far}");
    }
}
