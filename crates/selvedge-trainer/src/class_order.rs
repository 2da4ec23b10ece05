//! The order of the classes of a data set against that of a run: labels are numbers, so the same number must mean the same class.

use std::path::Path;

use selvedge_idx::{MAX_CLASSES, listed_class_names};

use crate::data::DataError;

/// What the labels of a data set mean to a run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ClassOrder {
    /// The classes that its labels may have.
    pub(crate) classes: usize,
    /// The run's class of each label; `None` if they are the same.
    map: Option<Vec<u8>>,
    /// What could not be checked, for the user.
    pub(crate) note: Option<String>,
}

impl ClassOrder {
    /// Compares the `classes.txt` in `dir` with the run's classes. If `by_name`, names in another order are mapped.
    ///
    /// A data set may have the first of the run's classes only. Without names, on either side, labels are taken as they are.
    ///
    /// # Errors
    /// [`DataError::ClassOrder`], [`DataError::UnknownClass`] if `by_name`, [`DataError::Idx`].
    pub(crate) fn of(dir: &Path, run: &[String], by_name: bool) -> Result<Self, DataError> {
        let as_they_are = |note| Self { classes: run.len(), map: None, note };
        let run_has_names = run.iter().zip(0..).any(|(name, number)| *name != number.to_string());
        let Some(found) = listed_class_names(dir)? else {
            let note =
                format!("{} has no classes.txt: its labels are taken for the run's classes in order", dir.display());
            return Ok(as_they_are(run_has_names.then_some(note)));
        };
        if run.starts_with(&found) {
            return Ok(Self { classes: found.len(), ..as_they_are(None) });
        }
        if by_name {
            let class_of = |name: &String| run.iter().take(MAX_CLASSES).position(|known| known == name);
            let unknown = |name: &String| {
                let (dir, expected) = (dir.to_owned(), run.to_vec());
                DataError::UnknownClass { dir, name: name.clone(), expected }
            };
            let map = found.iter().map(|name| class_of(name).map(|class| class as u8).ok_or_else(|| unknown(name)));
            return Ok(Self { classes: found.len(), map: Some(map.collect::<Result<_, _>>()?), note: None });
        }
        if !run_has_names && found.len() <= run.len() {
            let note = format!(
                "the run has numbers for its classes: the labels of {} are taken for these numbers, whatever classes.txt names",
                dir.display()
            );
            return Ok(as_they_are(Some(note)));
        }
        Err(DataError::ClassOrder { dir: dir.to_owned(), found, expected: run.to_vec() })
    }

    /// The run's class of a label below [`ClassOrder::classes`].
    pub(crate) fn class_of(&self, label: u8) -> u8 {
        self.map.as_ref().map_or(label, |map| map[usize::from(label)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    fn order(found: Option<&str>, run: &str, by_name: bool) -> Result<ClassOrder, DataError> {
        let dir = tempfile::tempdir().unwrap();
        if let Some(found) = found {
            std::fs::write(dir.path().join("classes.txt"), found.replace(' ', "\n")).unwrap();
        }
        ClassOrder::of(dir.path(), &names(run), by_name)
    }

    #[test]
    fn the_same_names_in_the_same_order_need_no_map() {
        for (found, classes) in [("a b c", 3), ("a b", 2)] {
            let order = order(Some(found), "a b c", false).unwrap();
            assert_eq!(order, ClassOrder { classes, map: None, note: None });
            assert_eq!(order.class_of(1), 1);
        }
    }

    #[test]
    fn another_order_is_refused_or_mapped() {
        let message = order(Some("c a"), "a b c", false).unwrap_err().to_string();
        assert!(message.contains("names the classes c, a;") && message.contains("with a, b, c,"), "{message}");
        let mapped = order(Some("c a"), "a b c", true).unwrap();
        assert_eq!((mapped.classes, mapped.class_of(0), mapped.class_of(1)), (2, 2, 0));
        let message = order(Some("c d"), "a b c", true).unwrap_err().to_string();
        assert!(message.contains("the class d") && message.contains("a, b, c"), "{message}");
        assert!(matches!(order(Some("a b c d"), "a b c", false), Err(DataError::ClassOrder { .. })));
    }

    #[test]
    fn what_cannot_be_compared_is_said() {
        assert!(order(None, "a b", false).unwrap().note.unwrap().contains("has no classes.txt"));
        assert!(order(Some("a b"), "0 1", false).unwrap().note.unwrap().contains("has numbers"));
        assert_eq!(order(None, "0 1", false).unwrap().note, None);
    }
}
