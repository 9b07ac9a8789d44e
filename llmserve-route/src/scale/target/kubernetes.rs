//! A workload of Kubernetes.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject};
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::{ScaleError, ScaleTarget};
use crate::kubernetes::KubernetesError;

/// Times that a change is asked for where somebody else makes one at the same moment.
const TRIES: usize = 4;

/// How long the API server may take unless said otherwise.
const TIMEOUT: Duration = Duration::from_secs(10);

const READ: &str = "get the scale subresource";
const WRITE: &str = "patch the scale subresource";

/// Scales whatever has a scale subresource: a Deployment, a StatefulSet, a resource of one's own.
///
/// The account may `get` and `patch` the subresource, such as `deployments/scale`. How many there
/// [are](ScaleTarget::current) is how many are wanted there at the moment, by whomever; where the
/// API server cannot be asked it is the last that was known, and the next change fails and says
/// why. Another autoscaler of the same workload must be turned off.
///
/// Calls wait for the API server, so they are for a thread of the host's and not for a task.
///
/// ```no_run
/// use k8s_openapi::api::apps::v1::Deployment;
/// use kube::core::ApiResource;
/// use llmserve_route::scale::{Autoscaler, Horizontal, KubernetesScale};
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let client = kube::Client::try_default().await?;
/// let deployment = ApiResource::erase::<Deployment>(&());
/// let target = KubernetesScale::connect(client, &deployment, "default", "model").await?;
/// let scaler = Autoscaler::builder(target).horizontal(Horizontal::default().between(1, 8)).build()?;
/// # drop(scaler);
/// # Ok(())
/// # }
/// ```
pub struct KubernetesScale {
    api: Api<DynamicObject>,
    name: Arc<str>,
    runtime: Handle,
    timeout: Duration,
    /// The last that was read or written.
    known: Mutex<usize>,
}

impl KubernetesScale {
    /// The workload `name` of this kind, once it has been seen; calls are made on the runtime of
    /// the task that connects.
    ///
    /// # Errors
    /// [`KubernetesError`]: there is none, or it may not be read.
    pub async fn connect(
        client: Client,
        kind: &ApiResource,
        namespace: &str,
        name: &str,
    ) -> Result<Self, KubernetesError> {
        let runtime =
            Handle::try_current().map_err(|_| KubernetesError::NoRuntime { what: READ })?;
        let api: Api<DynamicObject> = Api::namespaced_with(client, namespace, kind);
        let read = tokio::time::timeout(TIMEOUT, get(&api, name)).await;
        let known = read.map_err(|_| KubernetesError::TimedOut {
            what: READ,
            limit: TIMEOUT,
        })??;
        Ok(Self {
            api,
            name: name.into(),
            runtime,
            timeout: TIMEOUT,
            known: Mutex::new(known),
        })
    }

    /// How long the API server may take for one call; 10 s by default.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// Runs a call on the runtime, and waits for it on this thread.
    fn ask<T: Send + 'static>(
        &self,
        what: &'static str,
        call: impl Future<Output = Result<T, KubernetesError>> + Send + 'static,
    ) -> Result<T, KubernetesError> {
        let (sender, receiver) = channel();
        let task = self.runtime.spawn(async move {
            let _ = sender.send(call.await);
        });
        match receiver.recv_timeout(self.timeout) {
            Ok(answer) => answer,
            Err(RecvTimeoutError::Timeout) => {
                task.abort();
                let limit = self.timeout;
                Err(KubernetesError::TimedOut { what, limit })
            }
            Err(RecvTimeoutError::Disconnected) => {
                let reason = "its runtime was shut down";
                Err(KubernetesError::Unreachable { what, reason })
            }
        }
    }

    fn read(&self) -> Result<usize, KubernetesError> {
        let (api, name) = (self.api.clone(), self.name.clone());
        self.ask(READ, async move { get(&api, &name).await })
    }

    fn write(&self, replicas: i32) -> Result<usize, KubernetesError> {
        let (api, name) = (self.api.clone(), self.name.clone());
        self.ask(WRITE, async move { set(&api, &name, replicas).await })
    }
}

async fn get(api: &Api<DynamicObject>, name: &str) -> Result<usize, KubernetesError> {
    let scale = api.get_scale(name).await;
    let scale = scale.map_err(|error| KubernetesError::of(READ, &error))?;
    Ok(wanted(&scale))
}

async fn set(
    api: &Api<DynamicObject>,
    name: &str,
    replicas: i32,
) -> Result<usize, KubernetesError> {
    let patch = Patch::Merge(serde_json::json!({ "spec": { "replicas": replicas } }));
    let mut tried = 0;
    loop {
        tried += 1;
        let patched = api.patch_scale(name, &PatchParams::default(), &patch).await;
        match patched.map_err(|error| KubernetesError::of(WRITE, &error)) {
            Err(KubernetesError::Conflict { .. }) if tried < TRIES => {}
            patched => return Ok(wanted(&patched?)),
        }
    }
}

/// How many are wanted; none said is none.
fn wanted(scale: &k8s_openapi::api::autoscaling::v1::Scale) -> usize {
    let replicas = scale.spec.as_ref().and_then(|spec| spec.replicas);
    replicas
        .and_then(|replicas| usize::try_from(replicas).ok())
        .unwrap_or(0)
}

impl ScaleTarget for KubernetesScale {
    fn current(&self) -> usize {
        // What is not known now is known at the next tick; what is done about it says why not.
        let read = self.read();
        let mut known = self.known.lock();
        if let Ok(replicas) = read {
            *known = replicas;
        }
        *known
    }

    fn scale_to(&self, replicas: usize) -> Result<(), ScaleError> {
        let failed = |message: String| ScaleError::new(replicas, *self.known.lock(), message);
        let wanted = i32::try_from(replicas)
            .map_err(|_| failed(format!("Kubernetes counts to {} only", i32::MAX)))?;
        let written = self.write(wanted);
        *self.known.lock() = written.map_err(|error| failed(error.to_string()))?;
        Ok(())
    }
}

impl std::fmt::Debug for KubernetesScale {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KubernetesScale")
            .field("name", &self.name)
            .field("known", &*self.known.lock())
            .finish_non_exhaustive()
    }
}
