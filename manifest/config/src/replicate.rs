//! The key `replicate`: globs over the paths of databases, made by `keys` and asked by the VFS and `verneuilctl`.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use std::path::Path;

/// Which databases are replicated. The default is all of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReplicateConfig {
    pub(crate) include: Globs,
    pub(crate) exclude: Globs,
}

impl ReplicateConfig {
    /// Is the database at `path` to be replicated? The path is absolute and canonical, and may hold any bytes.
    ///
    /// A path is covered if a glob of `include` matches it, or `include` is empty, and none of `exclude` does.
    pub fn covers(&self, path: &Path) -> bool {
        (self.include.patterns.is_empty() || self.include.set.is_match(path))
            && !self.exclude.set.is_match(path)
    }
}

/// Globs of absolute paths, matched all at once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Globs {
    patterns: Vec<String>,
    set: GlobSet,
}

impl Globs {
    /// Compiles the globs: `*` and `?` stay within one name, `**` crosses names, `[a-z]` and `{a,b}` choose.
    ///
    /// # Errors
    /// What is wrong with one of them, or that they are too much together.
    pub(crate) fn new(patterns: &[String]) -> Result<Self, String> {
        let mut builder = GlobSetBuilder::new();
        for pattern in patterns {
            let glob = GlobBuilder::new(pattern)
                .literal_separator(true)
                .backslash_escape(true)
                .build()
                .map_err(|error| error.kind().to_string())?;
            builder.add(glob);
        }
        let set = builder.build().map_err(|error| error.kind().to_string())?;
        Ok(Self {
            patterns: patterns.to_vec(),
            set,
        })
    }
}

/// The same text means the same paths.
impl PartialEq for Globs {
    fn eq(&self, other: &Self) -> bool {
        self.patterns == other.patterns
    }
}
