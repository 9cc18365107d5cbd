//! `gradual demo`: two versions of a tiny application, a proxy before them, and commands to try.

mod backend;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tempfile::TempDir;

use crate::cli::demo::backend::{Backends, Page};
use crate::cli::{complain, finish, logging, say, serve};
use crate::control::{Options, Service};

/// The versions of the demonstration: fixed, so that its commands can be quoted.
const PAGES: [Page; 2] = [
    Page { id: "db7cd8d3-4425-4fe7-8c81-01bf963b6067", tag: "v1", asset: "/assets/app.3b5d5c37.js" },
    Page { id: "dc8dcd28-271b-4367-9840-6c244f84cb40", tag: "v2", asset: "/assets/app.d48ac1fa.js" },
];

/// Runs the demonstration until a signal ends it. Its folder is gone then.
pub(crate) fn demo() -> ExitCode {
    let _log = logging::start();
    match Stage::set() {
        Ok(stage) => finish(stage.play()),
        Err(error) => {
            complain(&format!("error: the demonstration cannot start: {error}\n"));
            ExitCode::FAILURE
        }
    }
}

/// All that the demonstration needs besides the proxy. Dropping it removes the folder.
struct Stage {
    backends: Backends,
    proxy: SocketAddr,
    admin: SocketAddr,
    _folder: TempDir,
    file: PathBuf,
}

impl Stage {
    fn set() -> io::Result<Self> {
        let backends = Backends::start(PAGES)?;
        let (proxy, admin) = (free(8080)?, free(9900)?);
        let folder = tempfile::Builder::new().prefix("gradual-demo-").tempdir()?;
        let file = folder.path().join("gradual.toml");
        std::fs::write(&file, configuration(proxy, admin, &backends.addresses))?;
        Ok(Self { backends, proxy, admin, _folder: folder, file })
    }

    fn play(self) -> Result<crate::control::Ended, crate::diag::Report> {
        let options = Options { file: self.file.clone(), watch: false };
        // If nobody reads, the demonstration goes on all the same.
        let ended = serve(options, Service::default(), |_| {
            say(&self.script());
        });
        if ended.is_ok() {
            say(&format!("\nThe demonstration is over; {} is removed.\n", self.file.display()));
        }
        ended
    }

    fn script(&self) -> String {
        let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("gradual"));
        let mut text = self.cast();
        for (title, commands) in scenes(self, &quoted(&program)) {
            text.push_str(&format!("\n# {title}\n{}\n", commands.join("\n")));
        }
        text.push_str("\nCtrl-C ends the demonstration and removes its folder.\n");
        text
    }

    fn cast(&self) -> String {
        let [one, two] = self.backends.addresses;
        format!(
            "\nA proxy splits requests for the worker `demo` between two versions, 90 % and 10 %:\n\n\
             \x20 proxy      http://{proxy}\n\
             \x20 version    v1 {v1}  http://{one}\n\
             \x20 version    v2 {v2}  http://{two}\n\
             \x20 file       {file}\n\
             \x20 admin      http://{admin}/api/v1/status\n\n\
             Paste these into another terminal:\n",
            proxy = self.proxy,
            v1 = PAGES[0].id,
            v2 = PAGES[1].id,
            file = self.file.display(),
            admin = self.admin,
        )
    }
}

/// What to try, in order: each with a title and shell commands that are right as they stand.
fn scenes(stage: &Stage, program: &str) -> Vec<(&'static str, Vec<String>)> {
    let url = format!("http://{}", stage.proxy);
    let file = quoted(&stage.file);
    let v2 = format!("-H 'Cloudflare-Workers-Version-Overrides: demo=\"{}\"'", PAGES[1].id);
    let key = "-H 'Cloudflare-Workers-Version-Key: alice'";
    let split =
        format!("for i in $(seq 20); do curl -s {url}/ | grep -o 'Version v[12]'; done | sort | uniq -c");
    let asset = |page: Page| format!("curl -s -o /dev/null -w '%{{http_code}}\\n' {v2} {url}{}", page.asset);
    vec![
        ("Twenty requests without a key: each goes where a draw falls", vec![split.clone()]),
        (
            "With a key, every request goes to the same version; the answer says which, and why",
            vec![format!("curl -s -i {key} {url}/ | grep -i '^gradual-version'"); 2],
        ),
        (
            "An override names its version, whatever the split",
            vec![format!("curl -s -i {v2} {url}/ | grep -i '^gradual-version'")],
        ),
        (
            "Why affinity matters: version v2 has its own asset (200), but not the one of v1's page (404)",
            vec![asset(PAGES[1]), asset(PAGES[0])],
        ),
        (
            "Where would a request go, and why? Answered from the file alone",
            vec![format!("{program} explain --file {file} --key alice {url}/")],
        ),
        (
            "Make it 50/50 without losing a request: it says who moves, and returns when every thread serves it",
            vec![
                format!(
                    "{program} versions deploy {}@50% {}@50% --message 'half and half' --file {file}",
                    PAGES[0].id, PAGES[1].id
                ),
                split,
            ],
        ),
        (
            "What was live, and back to before; or edit the file yourself, and `kill -HUP`",
            vec![
                format!("{program} deployments list --file {file}"),
                format!("{program} rollback {} --file {file} --yes", PAGES[0].id),
            ],
        ),
    ]
}

fn configuration(proxy: SocketAddr, admin: SocketAddr, upstreams: &[SocketAddr; 2]) -> String {
    let [v1, v2] = PAGES;
    let [one, two] = upstreams;
    format!(
        r#"# Made by `gradual demo`, which removes it at its end.

[[listener]]
address = "{proxy}"

[admin]
address = "{admin}"

[[worker]]
name = "demo"
expose_version = true

[[worker.version]]
id = "{}"
tag = "{}"
upstreams = ["http://{one}"]

[[worker.version]]
id = "{}"
tag = "{}"
upstreams = ["http://{two}"]

[worker.deployment]
versions = [
  {{ version_id = "{}", percentage = 90 }},
  {{ version_id = "{}", percentage = 10 }},
]
"#,
        v1.id, v1.tag, v2.id, v2.tag, v1.id, v2.id
    )
}

/// The loopback address with a port, or with any other that is free where that one is taken.
fn free(port: u16) -> io::Result<SocketAddr> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    bind(port).or_else(|_| bind(0))?.local_addr()
}

/// A path as a word of a shell command.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text;
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_words_of_a_shell_command() {
        assert_eq!(quoted(Path::new("/tmp/a-b/gradual.toml")), "/tmp/a-b/gradual.toml");
        assert_eq!(quoted(Path::new("/tmp/it's here")), r"'/tmp/it'\''s here'");
    }

    #[test]
    fn the_file_of_the_demonstration_is_good() {
        let address: SocketAddr = "127.0.0.1:8080".parse().unwrap();
        let admin: SocketAddr = "127.0.0.1:9900".parse().unwrap();
        let upstreams = ["127.0.0.1:3001".parse().unwrap(), "127.0.0.1:3002".parse().unwrap()];
        let text = configuration(address, admin, &upstreams);
        let (config, report) = crate::config::parse("gradual.toml", &text, Path::new("/")).unwrap();
        assert_eq!(report.diagnostics, []);
        let shares = config.workers[0].policy.deployment.ring.shares();
        assert_eq!(shares.iter().map(ToString::to_string).collect::<Vec<_>>(), ["90", "10"]);
    }
}
