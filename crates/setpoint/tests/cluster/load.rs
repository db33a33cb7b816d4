//! Clients that write through both servers and keep books.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use kube_client::Client;
use parking_lot::Mutex;
use serde_json::{Value, json};
use setpoint_base::{Stop, TaskGroup};
use tokio::time::{sleep, timeout};

use crate::{MAPS, harness};

/// How many objects are counted up.
pub(crate) const COUNTERS: usize = 3;
const CREATORS: usize = 3;
/// Longer than a server tries.
const REQUEST: Duration = Duration::from_secs(30);
/// Between the requests of one client.
const PAUSE: Duration = Duration::from_millis(15);

/// What the clients were told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// Creations acknowledged, and not deleted since.
    pub(crate) created: BTreeSet<String>,
    /// Deletions acknowledged.
    pub(crate) deleted: BTreeSet<String>,
    /// Objects that may be there or not.
    pub(crate) unknown: BTreeSet<String>,
    /// Counts acknowledged.
    pub(crate) counted: u64,
    /// Counts that may have happened.
    pub(crate) uncounted: u64,
    /// Lost races.
    pub(crate) conflicts: u64,
    /// Requests that certainly did nothing.
    pub(crate) refused: u64,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} created, {} deleted, {} unknown; {} counted, {} perhaps, {} conflicts; {} refused",
            self.created.len(),
            self.deleted.len(),
            self.unknown.len(),
            self.counted,
            self.uncounted,
            self.conflicts,
            self.refused
        )
    }
}

/// Clients at work.
pub(crate) struct Load {
    outcome: Arc<Mutex<Outcome>>,
    tasks: TaskGroup,
}

/// A client that sends each request once: the books could not be kept otherwise.
pub(crate) async fn client(kubeconfig: &str) -> Client {
    use kube_client::config::{Config, KubeConfigOptions, Kubeconfig};
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let mut config = config.unwrap();
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

/// The code of a refusal; 0 when no answer came.
pub(crate) type Code = u16;

/// A request with JSON in and out.
pub(crate) async fn send(
    client: &Client,
    method: &str,
    path: &str,
    body: Option<Value>,
) -> Result<Value, Code> {
    let mut request = http::Request::builder().method(method).uri(path);
    if body.is_some() {
        request = request.header("content-type", "application/json");
    }
    let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
    let request = request.body(body).unwrap();
    match timeout(REQUEST, client.request_text(request)).await {
        Ok(Ok(text)) => Ok(serde_json::from_str(&text).unwrap_or(Value::Null)),
        Ok(Err(kube_client::Error::Api(status))) => Err(status.code),
        Ok(Err(_)) | Err(_) => Err(0),
    }
}

/// What a counter says.
pub(crate) fn value(counter: &Value) -> u64 {
    counter["data"]["n"].as_str().unwrap().parse().unwrap()
}

/// Whether a refusal leaves open what happened.
fn unclear(code: Code) -> bool {
    matches!(code, 0 | 500 | 504)
}

impl Load {
    pub(crate) async fn start(clients: &[Client; 2]) -> Self {
        let this = Self {
            outcome: Arc::default(),
            tasks: TaskGroup::new(&Stop::new()),
        };
        for n in 0..COUNTERS {
            let counter = json!({"metadata": {"name": format!("counter-{n}")}, "data": {"n": "0"}});
            send(&clients[0], "POST", MAPS, Some(counter)).await.unwrap();
            // Two clients, one at each server, race for each counter.
            for client in clients {
                this.spawn(count(
                    client.clone(),
                    n,
                    this.outcome.clone(),
                    this.tasks.stop().clone(),
                ));
            }
        }
        for n in 0..CREATORS {
            this.spawn(create(
                clients.clone(),
                n,
                this.outcome.clone(),
                this.tasks.stop().clone(),
            ));
        }
        this
    }

    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(work);
    }

    /// Lets everybody finish what they do; what they were told.
    pub(crate) async fn stop(self) -> Outcome {
        let left = self.tasks.shutdown(REQUEST + harness::PATIENCE).await;
        assert_eq!(left, 0, "requests that do not end");
        self.outcome.lock().clone()
    }
}

async fn count(client: Client, n: usize, outcome: Arc<Mutex<Outcome>>, stop: Stop) {
    let path = format!("{MAPS}/counter-{n}");
    while !stop.is_cancelled() {
        sleep(PAUSE).await;
        let Ok(mut counter) = send(&client, "GET", &path, None).await else {
            outcome.lock().refused += 1;
            continue;
        };
        counter["data"]["n"] = json!((value(&counter) + 1).to_string());
        let put = send(&client, "PUT", &path, Some(counter)).await;
        let mut outcome = outcome.lock();
        match put {
            Ok(_) => outcome.counted += 1,
            Err(409) => outcome.conflicts += 1,
            Err(code) if unclear(code) => outcome.uncounted += 1,
            Err(_) => outcome.refused += 1,
        }
    }
}

async fn create(clients: [Client; 2], n: usize, outcome: Arc<Mutex<Outcome>>, stop: Stop) {
    let mut serial = 0;
    while !stop.is_cancelled() {
        sleep(PAUSE).await;
        serial += 1;
        let name = format!("made-{n}-{serial}");
        let object = json!({"metadata": {"name": name}, "data": {"by": n.to_string()}});
        let made = send(&clients[serial % 2], "POST", MAPS, Some(object)).await;
        {
            let mut outcome = outcome.lock();
            match made {
                Ok(_) => outcome.created.insert(name.clone()),
                Err(code) if unclear(code) => outcome.unknown.insert(name.clone()),
                Err(_) => {
                    outcome.refused += 1;
                    false
                }
            };
        }
        // Every fourth goes again, through the other server.
        if serial % 4 == 0 && made.is_ok() {
            let gone = send(
                &clients[(serial + 1) % 2],
                "DELETE",
                &format!("{MAPS}/{name}"),
                None,
            )
            .await;
            let mut outcome = outcome.lock();
            outcome.created.remove(&name);
            match gone {
                Ok(_) => outcome.deleted.insert(name),
                Err(_) => outcome.unknown.insert(name),
            };
        }
    }
}
