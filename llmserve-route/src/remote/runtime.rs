//! Where connections live: a thread of the endpoint's own, or the host's runtime.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// Runs tasks. Cheap to clone; all clones are the same.
#[derive(Clone, Debug)]
pub(super) enum Runtime {
    Host(Handle),
    /// A thread, begun with the first task and ended with the last clone.
    Own(Arc<Mutex<Option<Own>>>),
}

#[derive(Debug)]
pub(super) struct Own {
    handle: Handle,
    /// Dropped, it ends the thread.
    _alive: oneshot::Sender<()>,
}

impl Runtime {
    pub(super) fn new(host: Option<Handle>) -> Self {
        match host {
            Some(handle) => Runtime::Host(handle),
            None => Runtime::Own(Arc::default()),
        }
    }

    /// Runs `task` in the background.
    ///
    /// # Errors
    /// The thread could not be started.
    pub(super) fn spawn<F>(&self, task: F) -> io::Result<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let handle = match self {
            Runtime::Host(handle) => handle.clone(),
            Runtime::Own(own) => {
                let mut own = own.lock();
                match &*own {
                    Some(own) => own.handle.clone(),
                    None => own.insert(start()?).handle.clone(),
                }
            }
        };
        handle.spawn(task);
        Ok(())
    }
}

fn start() -> io::Result<Own> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let (alive, ended) = oneshot::channel::<()>();
    thread::Builder::new()
        .name("llmserve-remote".to_owned())
        .spawn(move || {
            // Tasks run in here; those that are left when nobody needs them are dropped with it.
            let _ = runtime.block_on(ended);
        })?;
    Ok(Own {
        handle,
        _alive: alive,
    })
}
