//! Variables as a process gets them.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::mistake::Mistakes;
use super::names::Form;

/// Variables by name. The values may be anything.
pub type Environment = BTreeMap<String, OsString>;

/// Whether any variable of a resource is set, in a form that concerns some node.
pub fn any_set(environment: &Environment) -> bool {
    environment.keys().any(|name| Form::of(name).is_some())
}

/// The value as text; what is not UTF-8 is a mistake and shown as well as it can be.
pub fn utf8(name: &str, value: &OsString, mistakes: &mut Mistakes) -> String {
    let text = value.to_string_lossy();
    if value.to_str().is_none() {
        mistakes.add(name, &text, "text in UTF-8");
    }
    text.into_owned()
}
