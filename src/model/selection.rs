//! Device selections, the argument `DEVICES` of commands and faults: IDs, indexes, ranges of indexes, or `all`.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::model::device::{Device, Devices};

/// Maximum length of a selection, in bytes.
pub(crate) const TEXT_MAX: usize = 4096;

/// Selects every device, unless a device has this ID.
const ALL: &str = "all";

/// Why a selection is invalid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Error)]
#[serde(rename_all = "camelCase")]
pub enum SelectionError {
    /// An element that is neither the ID of a device nor an index or range.
    #[error(
        "no device {0:?}: expected a comma-separated list of device IDs, indexes (0) or ranges (0-3), or all"
    )]
    Unknown(String),
    #[error(
        "the selection of devices is longer than {TEXT_MAX} bytes: use ranges (0-3) or all instead"
    )]
    TooLong,
    #[error(
        "index {index} is out of range: the number of devices is {count}, and indexes start at 0"
    )]
    NoIndex {
        index: usize,
        /// The number of devices that have an index.
        count: usize,
    },
}

/// Returns the selected devices without duplicates, in the order of the list. An element that is the ID of a device
/// selects that device, even if it is also an index or range. Devices that are pending removal have no index.
///
/// # Errors
/// Returns an error for the first element that is invalid or selects a device that does not exist.
pub fn select<'a>(devices: &'a Devices, text: &str) -> Result<Vec<&'a Device>, SelectionError> {
    if text.len() > TEXT_MAX {
        return Err(SelectionError::TooLong);
    }
    let mut selection = Selection::new(devices);
    for element in selection.elements(text) {
        selection.add(element)?;
    }
    Ok(selection.selected().collect())
}

/// Returns the selected devices that exist. Ignores elements that are invalid or select no existing device.
pub(crate) fn select_present<'a>(
    devices: &'a Devices,
    text: &str,
) -> impl Iterator<Item = &'a Device> {
    let mut selection = Selection::new(devices);
    for element in selection.elements(text) {
        // On an error, `add` has already selected the devices that exist.
        let _ = selection.add(element);
    }
    selection.selected()
}

struct Selection<'a> {
    devices: &'a Devices,
    /// Indexed by the position of the device.
    is_selected: Vec<bool>,
    /// The positions of the devices that have an index, by index.
    indexed: Vec<usize>,
}

impl<'a> Selection<'a> {
    fn new(devices: &'a Devices) -> Self {
        let has_index = |position: &usize| !devices.as_slice()[*position].removing;
        Self {
            devices,
            is_selected: vec![false; devices.len()],
            indexed: (0..devices.len()).filter(has_index).collect(),
        }
    }

    /// Splits the text at commas, unless the whole text is `all` or an ID. IDs can contain commas.
    fn elements<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let text = text.trim();
        if text == ALL || self.devices.position(text).is_some() {
            return vec![text];
        }
        text.split(',').map(str::trim).collect()
    }

    /// Selects the devices of one element. If a range ends beyond the last index, selects the devices that exist and
    /// returns an error.
    fn add(&mut self, element: &str) -> Result<(), SelectionError> {
        if let Some(position) = self.devices.position(element) {
            self.is_selected[position] = true;
            return Ok(());
        }
        let count = self.indexed.len();
        let (first, last) = match element {
            ALL if count == 0 => return Ok(()),
            ALL => (0, count - 1),
            element => parse_range(element)?,
        };
        for position in self.indexed.iter().take(last + 1).skip(first) {
            self.is_selected[*position] = true;
        }
        if last < count {
            Ok(())
        } else {
            Err(SelectionError::NoIndex { index: last, count })
        }
    }

    fn selected(self) -> impl Iterator<Item = &'a Device> {
        let devices = self.devices.as_slice().iter();
        let selected = std::iter::zip(devices, self.is_selected);
        selected.filter_map(|(device, is_selected)| is_selected.then_some(device))
    }
}

fn parse_range(element: &str) -> Result<(usize, usize), SelectionError> {
    let unknown = || SelectionError::Unknown(element.chars().take(256).collect());
    let (first, last) = element.split_once('-').unwrap_or((element, element));
    let (first, last) = (
        parse_index(first).ok_or_else(unknown)?,
        parse_index(last).ok_or_else(unknown)?,
    );
    (first <= last).then_some((first, last)).ok_or_else(unknown)
}

/// Parses a decimal index. A number that is too large becomes `usize::MAX - 1`: no device has that index, and adding 1
/// does not overflow.
fn parse_index(text: &str) -> Option<usize> {
    let is_decimal = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    is_decimal.then(|| text.parse().unwrap_or(usize::MAX).min(usize::MAX - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices() -> Devices {
        let device = |(index, id): (usize, &str)| Device::new(id, index, [].into());
        let ids = ["a", "3", "0-1", "x,y", "e"];
        let mut list: Vec<Device> = ids.into_iter().enumerate().map(device).collect();
        list.push(Device {
            removing: true,
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
    fn selects_by_id_index_range_and_all() {
        for (text, expected) in [
            ("a", &["a"][..]),
            ("0", &["a"]),
            (" 4 , a ", &["a", "e"]),
            ("a,0,0-1,0-1", &["a", "0-1"]),
            ("1-2", &["3", "0-1"]),
            ("all", &["a", "3", "0-1", "x,y", "e"]),
            ("gone", &["gone"]),
            // An ID takes precedence over an index or range.
            ("3", &["3"]),
            ("0-1", &["0-1"]),
            ("x,y", &["x,y"]),
        ] {
            assert_eq!(selected(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn select_present_ignores_what_does_not_exist() {
        let devices = devices();
        for (text, expected) in [
            ("3-9", &["x,y", "e"][..]),
            ("3-18446744073709551615", &["x,y", "e"]),
            ("b,a", &["a"]),
            ("7", &[]),
            ("9-3", &[]),
            ("", &[]),
            ("all", &["a", "3", "0-1", "x,y", "e"]),
        ] {
            let ids: Vec<&str> = select_present(&devices, text).map(|d| &*d.id).collect();
            assert_eq!(ids, expected, "{text}");
        }
    }

    #[test]
    fn refuses_what_does_not_exist_and_names_it() {
        for text in ["", "b", "a,", "-1", "1-", "2-1", "+1", "1-2-3", "x"] {
            let error = selected(text).unwrap_err();
            assert!(
                matches!(error, SelectionError::Unknown(_)),
                "{text} {error}"
            );
        }
        let expected =
            "index 5 is out of range: the number of devices is 5, and indexes start at 0";
        assert_eq!(selected("5").unwrap_err().to_string(), expected);
        assert_eq!(selected("2-5").unwrap_err().to_string(), expected);
        for beyond in ["18446744073709551615", "99999999999999999999999999"] {
            assert!(selected(beyond).is_err(), "{beyond}");
        }
        let long = "0,".repeat(TEXT_MAX);
        assert_eq!(selected(&long), Err(SelectionError::TooLong));
    }
}
