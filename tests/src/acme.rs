//! A real ACME server and the DNS that it asks: Let's Encrypt's own Pebble, from Debian. It verifies every signature and
//! nonce (and refuses some good ones), and really looks at HTTP-01, TLS-ALPN-01 and DNS-01.

use crate::platform::{free_address, run, until};
use anyhow::{Context, Result, ensure};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// How a server differs from others.
#[derive(Clone, Copy, Debug)]
pub struct AcmeOptions {
    /// Where it looks for HTTP-01.
    pub http: SocketAddr,
    /// Where it looks for TLS-ALPN-01.
    pub https: SocketAddr,
    /// How long its certificates are good.
    pub life: Duration,
}

/// A running server; every name leads to 127.0.0.1 there.
pub struct Acme {
    directory: TempDir,
    server: Child,
    dns: Child,
    address: SocketAddr,
    management: SocketAddr,
    dns_management: SocketAddr,
}

impl Drop for Acme {
    fn drop(&mut self) {
        for child in [&mut self.server, &mut self.dns] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Acme {
    /// Starts one and waits until it answers. Names under `refused.test.localhost` it signs for nobody.
    pub fn start(options: AcmeOptions) -> Result<Self> {
        let directory = TempDir::with_prefix("berth-acme-")?;
        let [address, management, dns_address, dns_management] =
            [free_address()?, free_address()?, free_address()?, free_address()?];
        let path = |name: &str| directory.path().join(name);
        let mut make = Command::new("openssl");
        make.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-days", "2", "-subj", "/CN=The test's own CA"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout"])
            .arg(path("key.pem"))
            .arg("-out")
            .arg(path("cert.pem"));
        run(make, None)?.success()?;
        let config = serde_json::json!({ "pebble": {
            "listenAddress": address.to_string(), "managementListenAddress": management.to_string(),
            "certificate": path("cert.pem"), "privateKey": path("key.pem"),
            "httpPort": options.http.port(), "tlsPort": options.https.port(),
            "certificateValidityPeriod": options.life.as_secs(), "domainBlocklist": ["refused.test.localhost"],
        }});
        std::fs::write(path("config.json"), config.to_string())?;
        let log = std::fs::File::create(path("log"))?;
        let start = |mut command: Command| {
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
            command
                .spawn()
                .with_context(|| format!("starting {:?}: apt-get install pebble", command.get_program()))
        };
        let mut dns = Command::new("pebble-challtestsrv");
        dns.args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", "", "-dns01"])
            .arg(dns_address.to_string())
            .args(["-management", &dns_management.to_string()]);
        let mut server = Command::new("pebble");
        server.arg("-config").arg(path("config.json")).args(["-dnsserver", &dns_address.to_string()]);
        // No pauses before it looks; names are proved for every order (99 of 100: pebble asks for `rand.Intn(100) > 0`).
        server.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_AUTHZREUSE", "0");
        let dns = start(dns)?;
        let acme = Self { server: start(server)?, dns, directory, address, management, dns_management };
        until(Duration::from_secs(20), "the ACME server to listen", || {
            for address in [acme.address, acme.management, acme.dns_management] {
                TcpStream::connect(address).with_context(|| acme.log())?;
            }
            Ok(())
        })?;
        Ok(acme)
    }

    /// Its directory URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}/dir", self.address)
    }

    /// The CA that it is itself trusted by: PEM.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.directory.path().join("cert.pem")
    }

    /// A file with the root of the certificates that it signs.
    pub fn root_file(&self) -> Result<PathBuf> {
        let path = self.directory.path().join("root.pem");
        let mut get = Command::new("curl");
        get.args(["-sSf", "--cacert"]).arg(self.ca_file()).arg("-o").arg(&path);
        get.arg(format!("https://{}/roots/0", self.management));
        run(get, None)?.success()?;
        Ok(path)
    }

    /// Everything it said.
    #[must_use]
    pub fn log(&self) -> String {
        let text = std::fs::read(self.directory.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// How many orders it got.
    #[must_use]
    pub fn orders(&self) -> usize {
        self.log().matches("Added order ").count()
    }

    /// Has a name lead elsewhere.
    pub fn lead(&self, name: &str, to: &str) -> Result<()> {
        for (path, body) in [
            ("clear-a", serde_json::json!({ "host": name })), // else it is one more address
            ("add-a", serde_json::json!({ "host": name, "addresses": [to] })),
        ] {
            let mut post = Command::new("curl");
            post.args(["-sSf", "-d", &body.to_string()])
                .arg(format!("http://{}/{path}", self.dns_management));
            run(post, None)?.success()?;
        }
        Ok(())
    }

    /// Writes a program that makes and takes away TXT records there, and notes each call in `calls`; while there is a file
    /// `hold`, it waits.
    pub fn dns_program(&self, directory: &Path) -> Result<PathBuf> {
        use std::os::unix::fs::PermissionsExt;
        let path = directory.join("dns-records");
        let text = format!(
            "#!/bin/sh\nset -eu\ncd \"$(dirname \"$0\")\"\necho \"$1 $2\" >> calls\n\
             while [ -e hold ]; do sleep 0.1; done\ncase \"$1\" in\n  \
             present) curl -sSf -d \"{{\\\"host\\\":\\\"$2.\\\",\\\"value\\\":\\\"$3\\\"}}\" http://{0}/set-txt ;;\n  \
             cleanup) curl -sSf -d \"{{\\\"host\\\":\\\"$2.\\\"}}\" http://{0}/clear-txt ;;\nesac\n",
            self.dns_management
        );
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        ensure!(path.exists(), "it was written");
        Ok(path)
    }

    /// Makes or takes away a TXT record.
    pub fn record(&self, present: bool, name: &str, value: &str) -> Result<()> {
        let (path, body) = match present {
            true => ("set-txt", serde_json::json!({ "host": format!("{name}."), "value": value })),
            false => ("clear-txt", serde_json::json!({ "host": format!("{name}.") })),
        };
        let mut post = Command::new("curl");
        post.args(["-sSf", "-d", &body.to_string()]).arg(format!("http://{}/{path}", self.dns_management));
        run(post, None)?.success().map(drop)
    }
}
