//! Decides which host paths a config file may give to containers. An author of a config file need not be
//! root on the node.

use std::path::{Component, Path, PathBuf};

/// Files that exist on every node and expose nothing.
const HARMLESS: [&str; 5] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
];

/// The paths of `ALLOWED_HOST_PATHS`.
#[derive(Clone, Debug, Default)]
pub(crate) struct AllowedHostPaths {
    /// Each path as written, and with its symlinks resolved.
    roots: Vec<(PathBuf, PathBuf)>,
    resolve: Option<Resolve>,
}

/// Resolves the symlinks in the existing part of a path, or returns `None` for a dangling symlink.
pub(crate) type Resolve = fn(&Path) -> Option<PathBuf>;

impl AllowedHostPaths {
    /// Allows these files, and every path below these directories.
    pub fn new(roots: impl IntoIterator<Item = PathBuf>, resolve: Option<Resolve>) -> Self {
        let both = |root: PathBuf| Some((clean(&root), clean(&resolved(&root, resolve)?)));
        Self {
            roots: roots.into_iter().filter_map(both).collect(),
            resolve,
        }
    }

    /// Returns what was expected instead of a path that is not allowed.
    pub fn expected() -> String {
        format!("{} or a path under ALLOWED_HOST_PATHS", HARMLESS.join(", "))
    }

    /// Returns whether a config file may use this path. A relative path is never allowed.
    pub fn allow(&self, path: &str) -> bool {
        let path = Path::new(path);
        let Some(real) = resolved(path, self.resolve).filter(|_| path.is_absolute()) else {
            return false;
        };
        // The path as written must be allowed too: on the host, its symlinks may resolve to other files than in our container.
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

/// Removes `.`, `..` and empty components.
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
    fn allows_only_paths_below_an_allowed_path() {
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
    fn resolves_symlinks_before_comparing() {
        let through = |path: &Path| match path.strip_prefix("/opt/widget/link") {
            Ok(rest) => Some(Path::new("/etc").join(rest)),
            Err(_) if path.ends_with("dangling") => None,
            Err(_) => Some(path.to_owned()),
        };
        let allowed = AllowedHostPaths::new(["/opt/widget".into()], Some(through));
        assert!(allowed.allow("/opt/widget/file"));
        assert!(!allowed.allow("/opt/widget/link/shadow"));
        assert!(!allowed.allow("/opt/widget/dangling"));
        // A path that resolves to an allowed file here may resolve to another file on the host.
        let everywhere = |_: &Path| Some(PathBuf::from("/opt/widget/file"));
        let allowed = AllowedHostPaths::new(["/opt/widget".into()], Some(everywhere));
        assert!(!allowed.allow("/proc/self/cwd/file"));
    }
}
