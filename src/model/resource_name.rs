//! Names of extended resources, validated by the kubelet's rules.

use std::fmt;

use thiserror::Error;

/// In bytes. The kubelet requires that `requests.<domain>` is a DNS subdomain of at most 253 bytes.
const DOMAIN_MAX: usize = 253 - "requests.".len();
const NAME_PART_MAX: usize = 63;

/// An extended resource name that the kubelet accepts, for example `example.com/gpu`.
///
/// The rules are those of `IsExtendedResourceName` in Kubernetes' `pkg/apis/core/v1/helper`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceName(String);

/// Why the kubelet refuses a resource name. Each message completes the sentence `expected …`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ResourceNameError {
    #[error("a name with one '/', as in example.com/gpu")]
    NotQualified,
    #[error("a domain that does not start with 'requests.'")]
    Requests,
    #[error("a domain that does not end in kubernetes.io, which is reserved for Kubernetes")]
    Native,
    #[error(
        "a DNS domain of at most {DOMAIN_MAX} lower-case letters, digits, '-' and '.' before the '/'"
    )]
    Domain,
    #[error(
        "1 to {NAME_PART_MAX} letters, digits, '-', '_' and '.' after the '/', \
         starting and ending with a letter or digit"
    )]
    NamePart,
}

impl ResourceName {
    /// Parses a name by the rules of the kubelet's Register.
    ///
    /// # Errors
    /// Returns the first rule that the name breaks.
    pub fn parse(name: &str) -> Result<Self, ResourceNameError> {
        let (domain, name_part) = name
            .split_once('/')
            .filter(|(_, rest)| !rest.contains('/'))
            .ok_or(ResourceNameError::NotQualified)?;
        if name.starts_with("requests.") {
            return Err(ResourceNameError::Requests);
        }
        if name.contains("kubernetes.io/") {
            return Err(ResourceNameError::Native);
        }
        if domain.len() > DOMAIN_MAX || !domain.split('.').all(is_dns_label) {
            return Err(ResourceNameError::Domain);
        }
        if name_part.len() > NAME_PART_MAX || !is_name_part(name_part) {
            return Err(ResourceNameError::NamePart);
        }
        Ok(Self(name.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the part after the `/`.
    pub(crate) fn name_part(&self) -> &str {
        self.0
            .split_once('/')
            .map_or(self.as_str(), |(_, part)| part)
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

fn is_dns_label(label: &str) -> bool {
    starts_and_ends_with(label, |c| c.is_ascii_lowercase() || c.is_ascii_digit())
        && label
            .bytes()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
}

fn is_name_part(part: &str) -> bool {
    starts_and_ends_with(part, |c| c.is_ascii_alphanumeric())
        && part
            .bytes()
            .all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(&c))
}

/// Whether the first and the last byte satisfy `kind`. False for an empty text.
fn starts_and_ends_with(text: &str, kind: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    matches!((bytes.first(), bytes.last()), (Some(&first), Some(&last)) if kind(first) && kind(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_names_that_the_kubelet_accepts() {
        let longest = format!("{}/{}", "a".repeat(244), "b".repeat(63));
        for name in [
            "example.com/gpu",
            "demo/sample-device",
            "a/B_c.d",
            "ska-sdp.org/widget",
            &longest,
        ] {
            assert_eq!(
                ResourceName::parse(name).map(|n| n.to_string()),
                Ok(name.to_owned())
            );
        }
    }

    #[test]
    fn refuses_names_that_the_kubelet_refuses() {
        use ResourceNameError::*;
        let long_domain = format!("{}/x", "a".repeat(245));
        let long_name = format!("a/{}", "b".repeat(64));
        for (name, error) in [
            ("", NotQualified),
            ("gpu", NotQualified),
            ("a/b/c", NotQualified),
            ("requests.example.com/gpu", Requests),
            ("kubernetes.io/gpu", Native),
            ("x.kubernetes.io/gpu", Native),
            ("/gpu", Domain),
            ("Example.com/gpu", Domain),
            ("a..b/gpu", Domain),
            ("-a/gpu", Domain),
            ("a_b/gpu", Domain),
            (&long_domain, Domain),
            ("a/", NamePart),
            ("a/-b", NamePart),
            ("a/b ", NamePart),
            ("a/b.", NamePart),
            ("a/ü", NamePart),
            (&long_name, NamePart),
        ] {
            assert_eq!(ResourceName::parse(name), Err(error), "{name}");
        }
    }

    #[test]
    fn name_part_follows_the_slash() {
        let name = ResourceName::parse("example.com/gpu").unwrap();
        assert_eq!(name.name_part(), "gpu");
    }
}
