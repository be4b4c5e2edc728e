//! Which files of the host a config file may hand out: whoever may edit it need not be root on the node.

use std::path::{Component, Path, PathBuf};

/// Files that every node has and that give nothing away.
const HARMLESS: [&str; 5] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
];

/// The host paths under which a config file may name files.
#[derive(Clone, Debug, Default)]
pub(crate) struct AllowedHostPaths {
    /// Each as it is written, and with its symlinks resolved.
    roots: Vec<(PathBuf, PathBuf)>,
    resolve: Option<Resolve>,
}

/// Resolves the symlinks of a path as far as it exists; `None` where one leads nowhere.
pub(crate) type Resolve = fn(&Path) -> Option<PathBuf>;

impl AllowedHostPaths {
    /// Allows what is under these directories, or is one of these files.
    pub fn new(roots: impl IntoIterator<Item = PathBuf>, resolve: Option<Resolve>) -> Self {
        let both = |root: PathBuf| Some((clean(&root), clean(&resolved(&root, resolve)?)));
        Self {
            roots: roots.into_iter().filter_map(both).collect(),
            resolve,
        }
    }

    /// Whether a config file may name this file; one that is not absolute never.
    pub fn allow(&self, path: &str) -> bool {
        let path = Path::new(path);
        let Some(real) = resolved(path, self.resolve).filter(|_| path.is_absolute()) else {
            return false;
        };
        // As it is written too: whoever resolves it on the host sees other files than we do.
        let (path, real) = (clean(path), clean(&real));
        let mut harmless = HARMLESS.iter().map(Path::new);
        let mut roots = self.roots.iter();
        harmless.any(|harmless| path == harmless && real == harmless)
            || roots.any(|(root, real_root)| path.starts_with(root) && real.starts_with(real_root))
    }
}

fn resolved(path: &Path, resolve: Option<Resolve>) -> Option<PathBuf> {
    resolve.map_or_else(|| Some(path.to_owned()), |resolve| resolve(path))
}

/// Without `.`, `..` and empty parts.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(clean.pop()),
            Component::CurDir => {}
            other => clean.push(other),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_under_an_allowed_path() {
        let allowed = AllowedHostPaths::new(["/opt/widget".into(), "/dev/gpu/../nic".into()], None);
        for path in [
            "/dev/null",
            "/opt/widget",
            "/opt/widget/a/b",
            "/opt/./widget/../widget/x",
            "/dev/nic/0",
        ] {
            assert!(allowed.allow(path), "{path}");
        }
        for path in [
            "",
            "opt/widget",
            "/",
            "/opt",
            "/opt/widgets",
            "/opt/widget/../../etc",
            "/dev/gpu/0",
            "/dev/null/..",
            "/dev/mem",
            "/../opt",
            "/opt/widget/../widget2",
        ] {
            assert!(!allowed.allow(path), "{path}");
        }
    }

    #[test]
    fn symlinks_are_resolved_first() {
        let through = |path: &Path| match path.strip_prefix("/opt/widget/link") {
            Ok(rest) => Some(Path::new("/etc").join(rest)),
            Err(_) if path.ends_with("dangling") => None,
            Err(_) => Some(path.to_owned()),
        };
        let allowed = AllowedHostPaths::new(["/opt/widget".into()], Some(through));
        assert!(allowed.allow("/opt/widget/file"));
        assert!(!allowed.allow("/opt/widget/link/shadow"));
        assert!(!allowed.allow("/opt/widget/dangling"));
        // What leads there for us may lead elsewhere on the host.
        let everywhere = |_: &Path| Some(PathBuf::from("/opt/widget/file"));
        let allowed = AllowedHostPaths::new(["/opt/widget".into()], Some(everywhere));
        assert!(!allowed.allow("/proc/self/cwd/file"));
    }
}
