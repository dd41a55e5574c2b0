//! A reboot for one command: it runs in a mount namespace of its own, where the kernel's boot id is another one. The tests of
//! `tests/write_side/reboot.rs` and `quiet_cost.rs` use it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

/// Covers the boot id, then becomes the program. The namespace and its mount end with the process.
const SCRIPT: &str = r#"mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@""#;

/// A boot that is not this machine's.
#[derive(Clone, Debug)]
pub struct Boot {
    file: PathBuf,
}

impl Boot {
    /// Boot number `number`; its id is kept in a file in `folder`.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn new(folder: &Path, number: u32) -> Result<Self> {
        let file = folder.join(format!("boot-id-{number}"));
        std::fs::write(&file, format!("{number:08x}-0000-4000-8000-000000000000\n"))?;
        Ok(Self { file })
    }

    /// The same command, as this boot runs it. Needs the right to mount.
    #[must_use]
    pub fn wrap(&self, command: &Command) -> Command {
        let mut outer = Command::new("unshare");
        outer.args(["--mount", "--", "sh", "-c", SCRIPT]);
        outer.arg(&self.file).arg(command.get_program());
        outer.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => outer.env(name, value),
                None => outer.env_remove(name),
            };
        }
        outer
    }
}
