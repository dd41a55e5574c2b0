//! The arguments of `verneuil-fs`, as a shell, `mount(8)` and `/etc/fstab` give them; read by `main`.

use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Error, Parser};
use verneuil_fs_core::Options;

/// Mount the replicas of SQLite databases, read-only.
///
/// Databases appear as MOUNTPOINT/HOST/ABSOLUTE/PATH and are read with any SQLite: each read transaction sees one
/// committed state, the next one the newest that has been replicated. The stores are those of the configuration.
///
/// `fusermount3 -u MOUNTPOINT`, or SIGTERM, ends the mount.
#[derive(Debug, Parser)]
#[command(name = "verneuil-fs", version)]
pub struct Arguments {
    /// The directory to mount on. (Of two, as mount(8) and fstab give them, the first is ignored.)
    #[arg(value_name = "MOUNTPOINT", num_args = 1..=2, required = true)]
    places: Vec<PathBuf>,

    /// Configuration: JSON, or @FILE; default: the environment variable VERNEUIL_CONFIG.
    #[arg(short, long, value_name = "CONFIG")]
    config: Option<String>,

    /// Keep fetched data in this directory, also across restarts.
    #[arg(long, value_name = "DIR")]
    cache_dir: Option<PathBuf>,

    /// Size of that directory, as in 500M or 2G [default: 1G].
    #[arg(long, value_name = "SIZE", value_parser = parse_size, requires = "cache_dir")]
    cache_size: Option<u64>,

    /// How often what is being read is compared with the store, as in 250ms or 2s; what is open but quiet, down to
    /// every 30 s; what is not open, never.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    refresh_interval: Option<Duration>,

    /// Let other users in, as far as the permission bits allow.
    #[arg(long)]
    allow_other: bool,

    /// Mount options, separated by commas: uid=N, gid=N, umask=OCTAL, allow_other, config=@FILE, and those of mount(8)
    /// that agree with a read-only mount.
    #[arg(short = 'o', value_name = "OPTIONS")]
    options: Vec<String>,

    /// Stay in the foreground and log to stderr; the default is to return when the mount is usable.
    #[arg(short, long)]
    foreground: bool,
}

/// What the arguments come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub mountpoint: PathBuf,
    pub config: Option<String>,
    /// Directory and size in bytes.
    pub cache: Option<(PathBuf, u64)>,
    pub refresh_interval: Duration,
    pub allow_other: bool,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub umask: u16,
    pub foreground: bool,
}

/// Options of mount(8) that change nothing here: what they ask for is so anyway, or is for mount(8) itself. No
/// replica is a device, executable or set-user-id, and access times are not kept.
const WITHOUT_EFFECT: [&str; 29] = [
    "defaults",
    "ro",
    "rw",
    "dev",
    "nodev",
    "suid",
    "nosuid",
    "exec",
    "noexec",
    "atime",
    "noatime",
    "relatime",
    "norelatime",
    "strictatime",
    "diratime",
    "nodiratime",
    "sync",
    "async",
    "dirsync",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "nousers",
    "owner",
    "nofail",
    "_netdev",
    "default_permissions",
];

impl Arguments {
    /// Checks what clap can't.
    ///
    /// # Errors
    /// An argument that is not understood, as clap reports its own.
    pub fn settings(self) -> Result<Settings, Error> {
        let mountpoint = self.places.last().cloned().unwrap_or_default();
        let absolute = |path: PathBuf| {
            std::path::absolute(&path)
                .map_err(|error| wrong(format!("'{}': {error}", path.display())))
        };
        let cache_size = self
            .cache_size
            .unwrap_or(verneuil_config::DEFAULT_CACHE_CAPACITY_BYTES);
        let mut settings = Settings {
            mountpoint,
            config: self.config,
            cache: self
                .cache_dir
                .map(|dir| Ok::<_, Error>((absolute(dir)?, cache_size)))
                .transpose()?,
            refresh_interval: self
                .refresh_interval
                .unwrap_or(Options::DEFAULT_REFRESH_INTERVAL),
            allow_other: self.allow_other,
            uid: None,
            gid: None,
            umask: Options::DEFAULT_UMASK,
            foreground: self.foreground,
        };
        for option in self
            .options
            .iter()
            .flat_map(|list| list.split(','))
            .filter(|option| !option.is_empty())
        {
            settings.apply(option)?;
        }
        Ok(settings)
    }
}

impl Settings {
    fn apply(&mut self, option: &str) -> Result<(), Error> {
        let number = |text: &str, radix| {
            u32::from_str_radix(text, radix)
                .map_err(|_| wrong(format!("-o {option}: '{text}' is not a number")))
        };
        match option.split_once('=') {
            Some(("uid", id)) => self.uid = Some(number(id, 10)?),
            Some(("gid", id)) => self.gid = Some(number(id, 10)?),
            Some(("umask", mask)) => {
                let mask = number(mask, 8)?;
                self.umask = u16::try_from(mask)
                    .ok()
                    .filter(|mask| *mask <= 0o777)
                    .ok_or_else(|| wrong(format!("-o {option}: a umask is at most 777 (octal)")))?;
            }
            Some(("config", config)) => self.config = Some(config.into()),
            // For mount(8) and systemd.
            Some(("comment" | "fsname" | "subtype", _)) => {}
            None if option == "allow_other" => self.allow_other = true,
            None if WITHOUT_EFFECT.contains(&option) => {}
            _ if option.starts_with("x-") || option.starts_with("X-") => {}
            _ => return Err(wrong(format!("-o {option}: unknown mount option"))),
        }
        Ok(())
    }
}

fn wrong(message: String) -> Error {
    Arguments::command().error(ErrorKind::ValueValidation, message)
}

/// Bytes: a number with K, M, G or T (powers of 1024), also written KiB and so on.
fn parse_size(text: &str) -> Result<u64, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let shift = match unit.strip_suffix("iB").unwrap_or(unit) {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return Err(format!("'{unit}' is no unit of size: K, M, G or T")),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "a number is needed, as in 500M".to_owned())?;
    number
        .checked_mul(1 << shift)
        .ok_or_else(|| "too large".into())
}

/// A time: a number with `ms` or `s`; milliseconds without.
fn parse_time(text: &str) -> Result<Duration, String> {
    /// Below this a refresh would only burn requests.
    const SHORTEST: Duration = Duration::from_millis(1);
    /// Above this, readers that ask for fresh data would not get it.
    const LONGEST: Duration = Duration::from_secs(86_400);
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number
        .parse()
        .map_err(|_| "a number is needed, as in 250ms".to_owned())?;
    let time = match unit {
        "" | "ms" => Duration::from_millis(number),
        "s" => Duration::from_secs(number),
        _ => return Err(format!("'{unit}' is no unit of time: ms or s")),
    };
    match (SHORTEST..=LONGEST).contains(&time) {
        true => Ok(time),
        false => Err("between 1ms and 86400s".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Settings, String> {
        let arguments = [&["verneuil-fs"], arguments].concat();
        Arguments::try_parse_from(arguments)
            .and_then(Arguments::settings)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_mountpoint_alone_is_enough() {
        let settings = parse(&["/mnt"]).unwrap();
        assert_eq!(settings.mountpoint, PathBuf::from("/mnt"));
        assert_eq!(settings.umask, 0o007);
        assert_eq!(settings.refresh_interval, Duration::from_millis(250));
        assert!(!settings.foreground && !settings.allow_other && settings.cache.is_none());
    }

    #[test]
    fn fstab_s_form_is_understood() {
        let settings = parse(&[
            "verneuil",
            "/mnt",
            "-o",
            "rw,nosuid,nodev,uid=5,gid=6,umask=022,config=@/etc/v.json",
        ])
        .unwrap();
        assert_eq!(settings.mountpoint, PathBuf::from("/mnt"));
        assert_eq!(
            (settings.uid, settings.gid, settings.umask),
            (Some(5), Some(6), 0o022)
        );
        assert_eq!(settings.config.as_deref(), Some("@/etc/v.json"));
        assert!(
            parse(&["/mnt", "-o", "allow_other,x-systemd.automount,nofail"])
                .unwrap()
                .allow_other
        );
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for arguments in [
            &["/mnt", "-o", "locking=kernel"][..],
            &["/mnt", "-o", "uid=me"],
            &["/mnt", "-o", "umask=1777"],
            &["/mnt", "--locking=kernel"],
            &["/mnt", "--cache-size", "1G"],
            &["/mnt", "--cache-dir", "/c", "--cache-size", "1X"],
            &["/mnt", "--refresh-interval", "0"],
            &["/mnt", "--refresh-interval", "1h"],
            &["a", "b", "c"],
            &[],
        ] {
            assert!(parse(arguments).is_err(), "{arguments:?}");
        }
    }

    #[test]
    fn sizes_and_times_have_units() {
        assert_eq!(parse_size("12"), Ok(12));
        assert_eq!(parse_size("500M"), Ok(500 << 20));
        assert_eq!(parse_size("2GiB"), Ok(2 << 30));
        assert!(parse_size("99999999999T").is_err() && parse_size("M").is_err());
        assert_eq!(parse_time("50"), Ok(Duration::from_millis(50)));
        assert_eq!(parse_time("2s"), Ok(Duration::from_secs(2)));
    }
}
