//! Which devices of a resource are meant: IDs, indexes, ranges of indexes, or all of them.

use thiserror::Error;

use crate::device::{Device, Devices};

/// Why nothing can be selected.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SelectionError {
    /// Neither an ID that is there nor an index.
    #[error(
        "no device {0:?}: expected IDs, indexes as in 0, ranges as in 0-3, comma-separated, or all"
    )]
    Unknown(String),
    /// An index beyond the last.
    #[error("no device with the index {index}: there are {count}, counted from 0")]
    NoIndex {
        /// The index.
        index: usize,
        /// How many devices there are.
        count: usize,
    },
}

/// The devices that the text means, in its order. An ID wins over what else it could be. Devices that are going have no
/// index any more.
///
/// # Errors
/// The first part of the text that no device has.
pub fn select<'a>(devices: &'a Devices, text: &str) -> Result<Vec<&'a Device>, SelectionError> {
    let text = text.trim();
    if let Some(device) = devices.get(text) {
        return Ok(vec![device]);
    }
    let indexed: Vec<&Device> = devices.as_slice().iter().filter(|d| !d.going).collect();
    if text == "all" {
        return Ok(indexed);
    }
    let parts = text.split(',').map(str::trim);
    let parts = parts.map(|part| match devices.get(part) {
        Some(device) => Ok(vec![device]),
        None => of_indexes(&indexed, part),
    });
    let selected: Result<Vec<_>, _> = parts.collect();
    Ok(selected?.concat())
}

fn of_indexes<'a>(devices: &[&'a Device], part: &str) -> Result<Vec<&'a Device>, SelectionError> {
    let unknown = || SelectionError::Unknown(part.chars().take(256).collect());
    let (first, last) = part.split_once('-').unwrap_or((part, part));
    let (first, last) = (
        index(first).ok_or_else(unknown)?,
        index(last).ok_or_else(unknown)?,
    );
    if first > last {
        return Err(unknown());
    }
    let selected = devices.get(first..=last);
    let count = devices.len();
    let selected = selected.ok_or(SelectionError::NoIndex { index: last, count })?;
    Ok(selected.to_vec())
}

/// Decimal; one beyond all bounds is taken for the highest but one, which no list has.
fn index(text: &str) -> Option<usize> {
    let decimal = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    decimal.then(|| text.parse().unwrap_or(usize::MAX - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices() -> Devices {
        let device = |(index, id): (usize, &str)| Device::new(id, index, [].into());
        let ids = ["a", "3", "0-1", "x,y", "e"];
        let mut list: Vec<Device> = ids.into_iter().enumerate().map(device).collect();
        list.push(Device {
            going: true,
            ..Device::new("gone", 0, [].into())
        });
        Devices::from_list(list)
    }

    fn selected(text: &str) -> Result<Vec<String>, SelectionError> {
        let devices = devices();
        let selected = select(&devices, text)?;
        Ok(selected
            .iter()
            .map(|device| device.id.to_string())
            .collect())
    }

    #[test]
    fn ids_indexes_ranges_and_all() {
        for (text, expected) in [
            ("a", &["a"][..]),
            ("0", &["a"]),
            (" 4 , a ", &["e", "a"]),
            ("1-2", &["3", "0-1"]),
            ("all", &["a", "3", "0-1", "x,y", "e"]),
            ("gone", &["gone"]),
            // An ID wins.
            ("3", &["3"]),
            ("0-1", &["0-1"]),
            ("x,y", &["x,y"]),
        ] {
            assert_eq!(selected(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_not_there_is_named() {
        for text in ["", "b", "a,", "-1", "1-", "2-1", "+1", "1-2-3", "x"] {
            let error = selected(text).unwrap_err();
            assert!(
                matches!(error, SelectionError::Unknown(_)),
                "{text} {error}"
            );
        }
        let expected = "no device with the index 5: there are 5, counted from 0";
        assert_eq!(selected("5").unwrap_err().to_string(), expected);
        assert_eq!(selected("2-5").unwrap_err().to_string(), expected);
        assert!(selected("99999999999999999999999999").is_err());
    }
}
