//! etcd and kube-apiserver on free loopback ports, with the CRDs. One pair a test binary; both end with it, however it ends: each
//! is watched over by a shell that waits for the end of its standard input, which this process holds.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api, Client, Config, ResourceExt,
    api::{Patch, PatchParams},
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use tokio::sync::OnceCell;

use super::{Found, fault::FaultLayer, world::eventually};
use crate::metrics::{CountRequests, Metrics};

/// How long the pair may take to come up on a busy machine.
const START_DEADLINE: Duration = Duration::from_secs(120);
const TOKEN: &str = "testkit";
/// The API server's certificate, which is its own authority.
const CERTIFICATE: &str = "apiserver.crt";

/// A running pair.
#[expect(dead_code, reason = "the children and their folder are held for as long as the server is used")]
pub struct Server {
    url: String,
    children: Vec<Child>,
    folder: tempfile::TempDir,
}

static SERVER: OnceCell<Server> = OnceCell::const_new();

/// The test binary's server; started by whoever asks first.
pub async fn server() -> Found<&'static Server> {
    SERVER.get_or_try_init(start).await
}

impl Server {
    /// A client of an administrator, for what users, kubelet and others do.
    pub async fn client(&self) -> Found<Client> {
        let config = self.config().await?;
        ClientBuilder::try_from(config).map(ClientBuilder::build).map_err(|e| format!("client: {e}"))
    }

    /// A client of a user of this name, who may do everything.
    pub async fn client_as(&self, user: &str) -> Found<Client> {
        let mut config = self.config().await?;
        config.auth_info.impersonate = Some(user.to_owned());
        config.auth_info.impersonate_groups = Some(vec!["system:masters".to_owned()]);
        ClientBuilder::try_from(config).map(ClientBuilder::build).map_err(|e| format!("client: {e}"))
    }

    /// A client whose requests are counted, as those of the operator are, and meet the faults of this layer.
    pub async fn client_with(&self, faults: &FaultLayer, metrics: &Metrics) -> Found<Client> {
        let builder = ClientBuilder::try_from(self.config().await?).map_err(|e| format!("client: {e}"))?;
        Ok(builder.with_layer(faults).with_layer(&CountRequests(metrics.clone())).build())
    }

    async fn config(&self) -> Found<Config> {
        // Without an authority, each client would read those of the system: some hundred files.
        let authority = self.folder.path().join(CERTIFICATE).display().to_string();
        let kubeconfig: Kubeconfig = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url, "certificate-authority": authority}}],
            "users": [{"name": "test", "user": {"token": TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }))
        .map_err(|e| format!("kubeconfig: {e}"))?;
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .map_err(|e| format!("config: {e}"))
    }
}

async fn start() -> Found<Server> {
    let folder = tempfile::Builder::new().prefix("millrace-testkit-").tempdir().map_err(|e| format!("folder: {e}"))?;
    let [etcd_port, peer_port, secure_port] = free_ports()?;
    let etcd_url = format!("http://127.0.0.1:{etcd_port}");
    let etcd = spawn(
        folder.path(),
        "etcd",
        &[
            format!("--data-dir={}/etcd", folder.path().display()),
            format!("--listen-client-urls={etcd_url}"),
            format!("--advertise-client-urls={etcd_url}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer_port}"),
            "--unsafe-no-fsync".to_owned(),
            "--log-level=error".to_owned(),
        ],
    )?;
    let apiserver = spawn(folder.path(), "kube-apiserver", &apiserver_args(folder.path(), &etcd_url, secure_port)?)?;
    let server = Server { url: format!("https://127.0.0.1:{secure_port}"), children: vec![etcd, apiserver], folder };
    let client = server.client().await?;
    let log = server.folder.path().join("kube-apiserver.log");
    eventually(START_DEADLINE, "the API server answers", async || {
        client
            .apiserver_version()
            .await
            .map(|_| ())
            .map_err(|e| format!("{e}; its log ends with: {}", last_lines(&log)))
    })
    .await?;
    install_crds(&client).await?;
    Ok(server)
}

fn apiserver_args(folder: &Path, etcd_url: &str, port: u16) -> Found<Vec<String>> {
    let key = rcgen::KeyPair::generate().map_err(|e| format!("key: {e}"))?;
    let file = |name: &str, content: String| {
        let path = folder.join(name);
        std::fs::write(&path, content).map(|()| path.display().to_string()).map_err(|e| format!("{name}: {e}"))
    };
    let private_key = file("service-account.key", key.serialize_pem())?;
    let public_key = file("service-account.pub", key.public_key_pem())?;
    let tokens = file("tokens.csv", format!("{TOKEN},admin,admin,system:masters\n"))?;
    // On an elliptic curve: the RSA key that the API server would make for itself takes a millisecond for every new connection.
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]);
    let own = made.map_err(|e| format!("certificate: {e}"))?;
    let certificate = file(CERTIFICATE, own.cert.pem())?;
    let certificate_key = file("apiserver.key", own.signing_key.serialize_pem())?;
    Ok(vec![
        format!("--etcd-servers={etcd_url}"),
        // A cached list waits until its cache has heard of the newest write, to whatever, and etcd is asked for that ten times a second:
        // some 50 ms a list. Without the cache a list is read from etcd, as an object always is.
        "--watch-cache=false".to_owned(),
        format!("--tls-cert-file={certificate}"),
        format!("--tls-private-key-file={certificate_key}"),
        format!("--secure-port={port}"),
        "--bind-address=127.0.0.1".to_owned(),
        "--endpoint-reconciler-type=none".to_owned(),
        "--service-cluster-ip-range=10.0.0.0/16".to_owned(),
        format!("--token-auth-file={tokens}"),
        "--authorization-mode=RBAC".to_owned(),
        "--service-account-issuer=https://testkit".to_owned(),
        format!("--service-account-key-file={public_key}"),
        format!("--service-account-signing-key-file={private_key}"),
        // Nobody makes the default ServiceAccounts that this admission asks for.
        "--disable-admission-plugins=ServiceAccount".to_owned(),
        // Many scenarios at a time come from one address; fairness between users is not what is tested.
        "--enable-priority-and-fairness=false".to_owned(),
        "--max-requests-inflight=0".to_owned(),
        "--max-mutating-requests-inflight=0".to_owned(),
    ])
}

/// Starts a program that ends with this process: the shell reads until its input ends, then kills it.
fn spawn(folder: &Path, program: &str, args: &[String]) -> Found<Child> {
    let path = bin_folder()?.join(program);
    if !path.exists() {
        return Err(format!("{} is missing: `make cluster-tools` builds it", path.display()));
    }
    let log = std::fs::File::create(folder.join(format!("{program}.log"))).map_err(|e| format!("log: {e}"))?;
    let watch = r#""$@" & child=$!; cat >/dev/null; kill -9 "$child""#;
    Command::new("/bin/sh")
        .args(["-c", watch, "sh"])
        .arg(&path)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .map_err(|e| format!("{}: {e}", path.display()))
}

fn bin_folder() -> Found<PathBuf> {
    if let Ok(folder) = std::env::var("MILLRACE_BIN") {
        return Ok(folder.into());
    }
    let cache = std::env::var("XDG_CACHE_HOME").or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cache")));
    cache
        .map(|cache| Path::new(&cache).join("millrace/bin"))
        .map_err(|_| "neither HOME nor MILLRACE_BIN is set".to_owned())
}

fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(3).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}

fn free_ports<const N: usize>() -> Found<[u16; N]> {
    // All are held until all are known, so that they differ.
    let listeners: Vec<TcpListener> = (0..N)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<_, _>>()
        .map_err(|e| format!("no free port: {e}"))?;
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr().map_err(|e| format!("port: {e}"))?.port();
    }
    Ok(ports)
}

async fn install_crds(client: &Client) -> Found<()> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in millrace_crds::manifests::all() {
        let name = crd.name_any();
        let applied = api.patch(&name, &PatchParams::apply("testkit").force(), &Patch::Apply(&crd)).await;
        applied.map_err(|e| format!("CRD {name}: {e}"))?;
        eventually(START_DEADLINE, "the CRD is established", async || {
            let stored = api.get(&name).await.map_err(|e| e.to_string())?;
            let conditions = stored.status.and_then(|status| status.conditions).unwrap_or_default();
            let is_established = conditions.iter().any(|c| c.type_ == "Established" && c.status == "True");
            is_established.then_some(()).ok_or_else(|| format!("{name} is not established"))
        })
        .await?;
    }
    Ok(())
}
