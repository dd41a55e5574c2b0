//! The threads that talk to the kernel unasked, fed by `live` (pages, attributes) and `tree` (names).
//!
//! Two of them, because dropping a name waits for lookups in its directory, which may wait for the store, while the
//! readers of a file wait for its pages to be dropped.

use std::sync::{Arc, mpsc};
use std::{io, thread};

use crate::kernel::Kernel;

type Job = Box<dyn FnOnce(&dyn Kernel) + Send>;

/// Queues of notifications; jobs of one queue run in order. The threads end when the last clone is dropped.
#[derive(Clone)]
pub struct Notifications {
    data: mpsc::Sender<Job>,
    names: mpsc::Sender<Job>,
}

impl Notifications {
    /// Starts the threads.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn start(kernel: Arc<dyn Kernel>) -> io::Result<Self> {
        Ok(Self {
            data: spawn("notify-data", kernel.clone())?,
            names: spawn("notify-names", kernel)?,
        })
    }

    /// Pages and attributes.
    pub fn data(&self, job: impl FnOnce(&dyn Kernel) + Send + 'static) {
        // The thread outlives every sender, so this fails only if a job panicked; then the mount is unusable anyway.
        let _ = self.data.send(Box::new(job));
    }

    /// Drops what `name` in `parent` leads to.
    pub fn name(&self, parent: u64, name: Vec<u8>) {
        let _ = self.names.send(Box::new(move |kernel| {
            if let Err(error) = kernel.invalidate_name(parent, &name) {
                tracing::warn!(parent, name = ?String::from_utf8_lossy(&name), %error, "the kernel kept a name");
            }
        }));
    }
}

fn spawn(name: &str, kernel: Arc<dyn Kernel>) -> io::Result<mpsc::Sender<Job>> {
    let (sender, jobs) = mpsc::channel::<Job>();
    thread::Builder::new().name(name.into()).spawn(move || {
        for job in jobs {
            job(&*kernel);
        }
    })?;
    Ok(sender)
}
