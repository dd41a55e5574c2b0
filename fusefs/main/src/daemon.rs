//! The daemon in the foreground: opens the stores, mounts, and waits for the end; called by `main`.

use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::time::Duration;
use std::{io, thread};

use anyhow::{Context, bail};
use nix::sys::signal::{SigSet, Signal};
use tokio::runtime::Runtime;
use tracing_subscriber::EnvFilter;
use verneuil_config::{CacheConfig, Config, EXPLICIT_BURST, EXPLICIT_REQUESTS_PER_SECOND};
use verneuil_fs_core::Options;
use verneuil_fuse::{MountOptions, mount, prepare, unmount_lazily};
use verneuil_replica::{Client, ClientConfig};
use verneuil_store::{Pacer, Store};

use crate::background;
use crate::cli::Settings;

/// How long the first look at the store may take before the mount goes on without it.
const FIRST_LOOK_WAIT: Duration = Duration::from_secs(5);

/// How long requests under way may take after a signal; whoever still has files open then gets errors.
const END_WAIT: Duration = Duration::from_secs(1);

enum Event {
    /// Somebody unmounted, or the session broke.
    SessionEnded(io::Result<()>),
    Signal(Signal),
}

/// Mounts and serves until it is unmounted or told to end.
///
/// # Errors
/// There is no mount; nothing is left behind.
pub fn run(settings: &Settings) -> anyhow::Result<ExitCode> {
    start_log();
    // Before any thread exists, so that all inherit it and only the one below receives them.
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    signals.thread_block().context("can't block signals")?;
    if background::is_background() {
        background::detach()?;
    }

    let config = read_config(settings)?;
    let mountpoint = prepare(&settings.mountpoint)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("verneuil-fs")
        .build()
        .context("can't start threads")?;
    let client = runtime.block_on(open_client(settings, &config))?;
    look_at_store(&runtime, &client);

    let options = Options {
        refresh_interval: settings.refresh_interval,
        uid: settings
            .uid
            .unwrap_or_else(|| nix::unistd::geteuid().as_raw()),
        gid: settings
            .gid
            .unwrap_or_else(|| nix::unistd::getegid().as_raw()),
        umask: settings.umask,
    };
    let mount_options = MountOptions {
        allow_other: settings.allow_other,
    };
    let mounted = mount(
        client,
        runtime.handle().clone(),
        options,
        &mount_options,
        &mountpoint,
    )?;
    // No thread of this process may look at its own mount, not even to see that it answers: killed within that call, the process would
    // wait for an answer that only it could give, and never end.
    let events = watch(signals, move || mounted.wait())?;
    tracing::info!(mountpoint = %mountpoint.display(), "mounted");
    if background::is_background()
        && let Err(error) = background::ready()
    {
        let _ = unmount_lazily(&mountpoint);
        return Err(error);
    }

    let result = wait_for_end(&events, &mountpoint);
    // What still waits for the store has nobody to answer.
    runtime.shutdown_background();
    result
}

fn start_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    let is_terminal = io::IsTerminal::is_terminal(&io::stderr());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(is_terminal)
        .with_target(false)
        .init();
}

fn read_config(settings: &Settings) -> anyhow::Result<Config> {
    let config = match &settings.config {
        Some(text) => Config::parse(text, "--config")?,
        None => Config::from_env()?,
    };
    if config.targets.is_empty() {
        bail!(
            "no replication target is configured: name one under replication_targets in --config or VERNEUIL_CONFIG, \
             as in {{\"replication_targets\": [{{\"directory\": {{\"path\": \"/srv/replicas\"}}}}]}}"
        );
    }
    Ok(config)
}

async fn open_client(settings: &Settings, config: &Config) -> anyhow::Result<Client> {
    let mut stores = Vec::new();
    for target in &config.targets {
        let pacer = Arc::new(Pacer::new(EXPLICIT_REQUESTS_PER_SECOND, EXPLICIT_BURST));
        stores.push(Store::open(target, pacer).await?);
    }
    let ours = settings
        .cache
        .as_ref()
        .map(|(directory, capacity_bytes)| CacheConfig::Local {
            directory: directory.clone(),
            capacity_bytes: *capacity_bytes,
        });
    let disk_caches = ours
        .into_iter()
        .chain(config.caches.iter().cloned())
        .collect();
    Ok(Client::open(
        stores,
        ClientConfig {
            disk_caches,
            ..ClientConfig::default()
        },
    )?)
}

/// Says at once what is wrong with a store. The mount goes on: it works when the store does.
fn look_at_store(runtime: &Runtime, client: &Client) {
    let problem = runtime.block_on(async {
        match tokio::time::timeout(FIRST_LOOK_WAIT, client.hosts()).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!(
                "the store did not answer within {} s",
                FIRST_LOOK_WAIT.as_secs()
            )),
        }
    });
    if let Some(error) = problem {
        tracing::warn!(error, "the store can't be read now");
    }
}

/// Watches for both ways to end.
fn watch(
    signals: SigSet,
    wait: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> anyhow::Result<mpsc::Receiver<Event>> {
    let (sender, events) = mpsc::channel();
    let ended = sender.clone();
    // Nobody listens after the first event but one; then sending fails, and rightly.
    let session = move || drop(ended.send(Event::SessionEnded(wait())));
    thread::Builder::new()
        .name("session".into())
        .spawn(session)
        .context("can't start a thread")?;
    let signal = move || {
        while let Ok(signal) = signals.wait() {
            if sender.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("signals".into())
        .spawn(signal)
        .context("can't start a thread")?;
    Ok(events)
}

fn wait_for_end(events: &mpsc::Receiver<Event>, mountpoint: &Path) -> anyhow::Result<ExitCode> {
    match events.recv().context("the threads of the mount are gone")? {
        Event::SessionEnded(result) => {
            result.with_context(|| format!("{}: the mount broke", mountpoint.display()))?;
            tracing::info!(mountpoint = %mountpoint.display(), "unmounted");
        }
        Event::Signal(signal) => {
            tracing::info!(mountpoint = %mountpoint.display(), %signal, "unmounting");
            unmount_lazily(mountpoint)
                .with_context(|| format!("{}: can't unmount", mountpoint.display()))?;
            // Ends at once unless files are open there.
            let _ = events.recv_timeout(END_WAIT);
        }
    }
    Ok(ExitCode::SUCCESS)
}
