//! Every key of the file, declared once: what the cursor accepts, what messages list, and what the JSON schema says.

/// A table of the file and the keys it may have.
#[derive(Debug)]
pub(super) struct Section {
    /// As messages name it, such as `[[listener]]`.
    pub(super) name: &'static str,
    /// What it is about, in a sentence.
    pub(super) doc: &'static str,
    /// Its keys, in the order in which they are listed.
    pub(super) keys: &'static [Key],
}

impl Section {
    /// A key by its name.
    pub(super) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

/// A key and what it may hold.
#[derive(Debug)]
pub(super) struct Key {
    /// The name.
    pub(super) name: &'static str,
    /// What it may hold.
    pub(super) kind: Kind,
    /// Whether its section is refused without it.
    pub(super) required: bool,
    /// The default as the file would say it, strings without quotes; `None` where there is none, or no fixed one.
    pub(super) default: Option<&'static str>,
    /// What it means, in a sentence or two.
    pub(super) doc: &'static str,
}

impl Key {
    const fn required(self) -> Self {
        Self { required: true, ..self }
    }

    const fn or(self, default: &'static str) -> Self {
        Self { default: Some(default), ..self }
    }
}

/// What a key may hold.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// A string of a certain form.
    Text {
        /// The form, in words that go on from "expected".
        form: &'static str,
        /// A regular expression that every such string matches, for the JSON schema; may be empty.
        pattern: &'static str,
    },
    /// One of some strings.
    Choice(&'static [&'static str]),
    /// `true` or `false`.
    Boolean,
    /// A whole number.
    Integer {
        /// The least allowed.
        least: i64,
        /// The most allowed.
        most: i64,
    },
    /// A share in per cent: a number, or a string of one.
    Percentage,
    /// A date and a time with an offset, or a string of one.
    DateTime,
    /// A list.
    List {
        /// What each entry is.
        of: &'static Kind,
        /// How many entries it must have at least.
        least: usize,
    },
    /// A table.
    Table(&'static Section),
    /// A table whose keys are free names, each with a table.
    Map(&'static Section),
}

impl Kind {
    /// What is expected, in words that go on from "expected".
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Text { form, .. } => (*form).to_owned(),
            Self::Choice([only]) => format!("`\"{only}\"`"),
            Self::Choice(words) => {
                let words: Vec<_> = words.iter().map(|word| format!("`\"{word}\"`")).collect();
                format!("one of {}", words.join(", "))
            }
            Self::Boolean => "`true` or `false`".to_owned(),
            Self::Integer { least, most } => format!("a whole number from {least} to {most}"),
            Self::Percentage => {
                "a number from 0 to 100 with at most three digits after the decimal point".to_owned()
            }
            Self::DateTime => "a date-time with an offset, such as 2026-11-20T12:00:00Z".to_owned(),
            Self::List { of, .. } => format!("a list, each entry {}", of.describe()),
            Self::Table(section) => {
                let keys: Vec<_> = section.keys.iter().map(|key| format!("`{}`", key.name)).collect();
                format!("a table with {}", keys.join(", "))
            }
            Self::Map(section) => format!("a table of names, each with {}", Self::Table(section).describe()),
        }
    }
}

const fn key(name: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { name, kind, required: false, default: None, doc }
}

const fn text(form: &'static str) -> Kind {
    Kind::Text { form, pattern: "" }
}

const fn list(of: &'static Kind) -> Kind {
    Kind::List { of, least: 1 }
}

/// Path of a file.
const PATH: Kind = text("a path, relative to the folder of this file");
/// Any text.
const PROSE: Kind = text("a string");
/// Of the rules language.
const FILTER: Kind = text("a filter of the rules language, such as `http.cookie contains \"user_id\"`");
/// The same.
const VALUE: Kind = text("a value of the rules language, such as `http.request.cookies[\"user_id\"][0]`");
const DURATION: Kind = Kind::Text {
    form: "a duration such as \"500ms\", \"30s\", \"5m\" or \"1h\", at most \"24h\"",
    pattern: "^[0-9]+(ms|s|m|h)$",
};
const SIZE: Kind = Kind::Text {
    form: "a number of bytes such as \"512B\", \"64KiB\" or \"1MiB\"",
    pattern: "^[0-9]+(B|KiB|MiB|GiB)$",
};
const STATUS: Kind = Kind::Text {
    form: "a status such as \"200\", or a range such as \"200-399\"",
    pattern: "^[1-5][0-9][0-9](-[1-5][0-9][0-9])?$",
};
const ADDRESS: Kind = Kind::Text {
    form: "an IP address and a port such as \"127.0.0.1:8080\" or \"[::1]:8080\", or \"unix:\" and a path",
    pattern: "^(unix:.+|.+:[0-9]+)$",
};
const UPSTREAM: Kind = Kind::Text {
    form: "\"http://host:port\", \"https://host:port\", \"h2c://host:port\" or \"unix:/path\"",
    pattern: "^((http|https|h2c)://|unix:).+$",
};
const VERSION_ID: Kind = Kind::Text {
    form: "1 to 64 visible ASCII characters without `\"`, `\\`, `,` and `@`",
    pattern: "^[!#-+\\--?A-\\[\\]-~]{1,64}$",
};
const TAG: Kind = Kind::Text { form: "1 to 100 printable ASCII characters", pattern: "^[ -~]{1,100}$" };
const WORKER_NAME: Kind = Kind::Text {
    form: "at most 63 of `a` to `z`, `0` to `9`, `_`, `.`, `*`, `-`, the first one a letter or `*`",
    pattern: "^[a-z*][a-z0-9_.*-]{0,62}$",
};
const COOKIE: Kind = Kind::Text {
    form: "the name of a cookie: 1 to 64 letters, digits, or characters of `!#$%&'*+-.^_`|~`",
    pattern: "^[A-Za-z0-9!#$%&'*+\\-.^_`|~]{1,64}$",
};
const ROUTE: Kind = text("a route such as \"example.com/*\", \"*.example.com/shop/*\" or \"*/*\"");
const TRUSTED: Kind = text("an IP address, a network such as \"10.0.0.0/8\", or \"unix\"");
const HOST: Kind = text("a host name without scheme, port and path");
const ASSET_PATHS: Kind = text("a pattern such as \"/assets/*\" or \"*.js\"");
const SENDERS: Kind = Kind::Choice(&["anyone", "trusted", "never"]);

/// The file.
pub(super) static FILE: Section = Section {
    name: "the file",
    doc: "The configuration of gradual, a reverse proxy that splits traffic between versions of an application.",
    keys: &[
        key("server", Kind::Table(&SERVER), "The process."),
        key("listener", list(&Kind::Table(&LISTENER)), "Where clients connect.").required(),
        key("limits", Kind::Table(&LIMITS), "Bounds and deadlines."),
        key("log", Kind::Table(&LOG), "The access log."),
        key("admin", Kind::Table(&ADMIN), "The admin address: health, status, metrics, reload, upgrade."),
        key("worker", list(&Kind::Table(&WORKER)), "The applications behind the proxy.").required(),
    ],
};

static SERVER: Section = Section {
    name: "[server]",
    doc: "The process.",
    keys: &[
        key(
            "threads",
            Kind::Integer { least: 1, most: 1024 },
            "How many threads serve. Default: one per core. A change needs a restart or an upgrade.",
        ),
        key(
            "state",
            PATH,
            "The folder of the journal of deployments and of the lock that writers of this file take. Default: the folder that this file is in.",
        ),
    ],
};

static LISTENER: Section = Section {
    name: "[[listener]]",
    doc: "An address where clients connect.",
    keys: &[
        key("address", ADDRESS, "Where it listens; with port 0 the system chooses a port.").required(),
        key("tls", list(&Kind::Table(&CERTIFICATE)), "Certificates, chosen by SNI, the first where none matches; with them the listener speaks TLS."),
        key("client_ca", PATH, "PEM file of the authorities that client certificates must descend from. Every client must then show one. Needs `tls`."),
        key("trusted_proxies", Kind::List { of: &TRUSTED, least: 0 }, "Peers whose forwarding headers are believed: addresses, networks, and \"unix\" for peers on Unix sockets."),
        key("proxy_protocol", Kind::Boolean, "Whether every connection starts with a PROXY protocol header, version 1 or 2. Needs `trusted_proxies`; other peers are closed.").or("false"),
        key("redirect", Kind::Choice(&["https"]), "Answer every request with 308 to https instead of proxying it."),
        key("health_path", text("a path such as \"/healthz\", without query and fragment"), "A path that the proxy answers itself on this listener."),
    ],
};

static CERTIFICATE: Section = Section {
    name: "`tls`",
    doc: "A certificate and its key.",
    keys: &[
        key("certificate", PATH, "PEM file of the certificate chain, the server's own certificate first.")
            .required(),
        key("key", PATH, "PEM file of the private key.").required(),
    ],
};

static LIMITS: Section = Section {
    name: "[limits]",
    doc: "Bounds and deadlines.",
    keys: &[
        key("drain_timeout", DURATION, "How long requests in flight may go on after the signal to stop; \"0s\" ends them at once.").or("30s"),
        key("retired_grace", DURATION, "How long streams may go on whose version has left the deployment; then they are ended. Default: as long as they like."),
        key("header_bytes", SIZE, "The most bytes of a request's head; more is 431.").or("64KiB"),
        key("header_count", Kind::Integer { least: 1, most: 1000 }, "The most header lines of a request, the crumbs of an HTTP/2 cookie counted as one; more is 431.").or("100"),
        key("uri_bytes", SIZE, "The most bytes of a request's target; more is 414.").or("16KiB"),
        key("tls_handshake_timeout", DURATION, "For the TLS handshake, and for a PROXY protocol header.").or("10s"),
        key("detection_timeout", DURATION, "For a new connection's first bytes, until it is known whether it speaks HTTP/1.1 or HTTP/2.").or("30s"),
        key("header_timeout", DURATION, "From the first byte of a request's head to its last.").or("30s"),
        key("keep_alive_timeout", DURATION, "How long a client connection may wait for its next request.").or("60s"),
        key("body_idle_timeout", DURATION, "How long a client may leave a body or tunnel standing still, sending or reading.").or("5m"),
        key("min_rate", Kind::Integer { least: 0, most: 1 << 20 }, "Bytes a second that a client must send of a body of known length, and read of what waits for it; 0: any. Request bodies of unknown length are only cut for standing still.").or("240"),
        key("min_rate_grace", DURATION, "For how long a client may be slower than `min_rate`.").or("20s"),
        key("connections", Kind::Integer { least: 1, most: 1 << 20 }, "The most client connections; more are answered 503 or closed.").or("16384"),
        key("connections_per_address", Kind::Integer { least: 0, most: 1 << 20 }, "The most client connections of one address (of IPv6: of one network of 64 bits); 0: as many as there may be. Not counted for `trusted_proxies` and Unix sockets.").or("4096"),
        key("http2_streams", Kind::Integer { least: 1, most: 10_000 }, "The most requests at once on one HTTP/2 connection.").or("128"),
        key("http2_stream_window", SIZE, "How much of a request body an HTTP/2 client may send ahead.").or("256KiB"),
        key("http2_connection_window", SIZE, "The same, for all request bodies of a connection together.").or("1MiB"),
        key("http2_control_frames", Kind::Integer { least: 50, most: 1 << 20 }, "The most HTTP/2 frames that bring nothing on (resets, PING, SETTINGS, empty frames, …) between two requests that complete, and in a minute besides; more ends the connection.").or("1000"),
        key("send_buffer", SIZE, "The most memory that bodies take which wait for one client, over all its streams.").or("256KiB"),
        key("send_buffer_grace", DURATION, "For how long a client may take nothing at all where several responses wait for it and cost more than `send_buffer`; then those that wait longest are reset.").or("10s"),
        key("kernel_buffer", SIZE, "The most that the kernel keeps of what goes to one client, and of what comes from one upstream connection. Default: what the system lets it grow to."),
        key("request_body_bytes", SIZE, "The most bytes of a request's body; more is 413. Default: any number."),
        key("upstream_connections", Kind::Integer { least: 1, most: 1 << 20 }, "The most connections to one endpoint of an upstream; then requests wait for one.").or("1024"),
        key("upstream_pending", Kind::Integer { least: 0, most: 1 << 20 }, "The most requests that wait for a connection to one endpoint; more are answered 503.").or("1024"),
    ],
};

static LOG: Section = Section {
    name: "[log]",
    doc: "The access log.",
    keys: &[key("access", text("\"stdout\", \"off\" or a path, relative to the folder of this file"), "Where the access log goes, one line of JSON per request: \"stdout\", \"off\", or the path of a file that is appended to.").or("off")],
};

static ADMIN: Section = Section {
    name: "[admin]",
    doc: "The admin address: health, status, metrics, reload, upgrade.",
    keys: &[
        key(
            "address",
            ADDRESS,
            "Where it listens. A default address that is taken is no error; one that is written here is.",
        )
        .or("127.0.0.1:9900"),
        key(
            "token_file",
            PATH,
            "File of the bearer token. Required where the address is not loopback or a Unix socket; once set, every request needs the token.",
        ),
        key(
            "hosts",
            Kind::List { of: &HOST, least: 0 },
            "Host names accepted besides localhost and loopback addresses.",
        ),
        key(
            "metrics",
            Kind::Choice(&["open", "token"]),
            "Whether /metrics needs the token. Default: \"token\" where `token_file` is set, else \"open\".",
        ),
    ],
};

static WORKER: Section = Section {
    name: "[[worker]]",
    doc: "An application behind the proxy.",
    keys: &[
        key("name", WORKER_NAME, "The name, as override headers, logs and metrics say it.").required(),
        key("routes", list(&ROUTE), "Which requests are for it, by host and path. Default: \"*/*\", every request."),
        key("expose_version", Kind::Boolean, "Whether responses carry `Gradual-Version`.").or("false"),
        key("overrides", SENDERS, "Who may choose a version with `Cloudflare-Workers-Version-Overrides`: anyone, peers in `trusted_proxies`, or nobody.").or("anyone"),
        key("overrides_secret_file", PATH, "File of a secret: an override counts only with it, as the parameter `token`. It is cut before forwarding."),
        key("keys", SENDERS, "Who may send `Cloudflare-Workers-Version-Key`: anyone, peers in `trusted_proxies`, or nobody.").or("anyone"),
        key("upstream_host", text("\"preserve\", \"upstream\" or a host name"), "The `Host` that upstreams see: \"preserve\" is the client's, \"upstream\" the upstream's own; anything else is sent as it is.").or("preserve"),
        key("on_unavailable", Kind::Choice(&["fail", "remap"]), "What becomes of requests whose version is down: \"fail\" answers 503; \"remap\" sends them to the versions that are up.").or("fail"),
        key("timeouts", Kind::Table(&TIMEOUTS), "Deadlines towards upstreams."),
        key("rule", Kind::List { of: &Kind::Table(&RULE), least: 0 }, "What is done to the headers of requests before they are assigned, in order; see docs/rules.md."),
        key("affinity", Kind::Table(&AFFINITY), "How version keys fall on the ring, and the cookie that is a key."),
        key("objects", Kind::Table(&OBJECTS), "What is served by one version at a time: a room, a cart, a tenant."),
        key("assets", Kind::Table(&ASSETS), "Static assets, which versions serve for each other."),
        key("version", list(&Kind::Table(&VERSION)), "The versions of the application.").required(),
        key("deployment", Kind::Table(&DEPLOYMENT), "How traffic is split between versions.").required(),
    ],
};

static TIMEOUTS: Section = Section {
    name: "`timeouts`",
    doc: "Deadlines towards upstreams.",
    keys: &[
        key("connect", DURATION, "For a connection to be made, TLS included.").or("5s"),
        key("response", DURATION, "From the end of the request to the head of the response.").or("60s"),
        key("idle", DURATION, "Between two pieces of a body or a tunnel.").or("5m"),
    ],
};

static RULE: Section = Section {
    name: "[[worker.rule]]",
    doc: "What is done to the headers of some requests. Every rule sees the request as it came.",
    keys: &[
        key(
            "expression",
            FILTER,
            "Which requests: a condition such as `http.cookie contains \"user_id\"`, or `true`.",
        )
        .required(),
        key("headers", Kind::Map(&HEADER), "What is done, by the name of the header. At most 30.").required(),
        key("description", PROSE, "What the rule is for."),
        key("enabled", Kind::Boolean, "Whether the rule is in force.").or("true"),
    ],
};

static HEADER: Section = Section {
    name: "this header",
    doc: "What is done to a header.",
    keys: &[
        key(
            "operation",
            Kind::Choice(&["set", "remove"]),
            "\"set\" replaces all lines of the header by one, \"remove\" removes them.",
        )
        .required(),
        key("value", text("the value of a header"), "What it is set to, the same for every request."),
        key(
            "expression",
            VALUE,
            "What it is set to, computed from the request; where that is missing or empty, the header is removed.",
        ),
    ],
};

static AFFINITY: Section = Section {
    name: "[worker.affinity]",
    doc: "How version keys fall on the ring, and the cookie that is a key.",
    keys: &[
        key(
            "salt",
            PROSE,
            "What is mixed into every key. Workers with the same salt and the same percentages assign alike. Default: the worker's name.",
        ),
        key(
            "cookie",
            COOKIE,
            "A request without a key takes its key from this cookie; who asks for a document and has none is given one.",
        ),
        key("cookie_forward", Kind::Boolean, "Whether upstreams see the cookie.").or("true"),
    ],
};

static OBJECTS: Section = Section {
    name: "[worker.objects]",
    doc: "What is served by one version at a time: a room, a cart, a tenant.",
    keys: &[
        key(
            "key",
            text("an expression of the rules language, such as 'http.request.headers[\"x-room\"][0]'"),
            "An expression whose value names the object of a request. Where it has none, the request is for no object.",
        )
        .required(),
        key(
            "handover",
            Kind::Choice(&["drain", "reset"]),
            "What becomes of an object's requests and tunnels when a deployment gives it another version: \"drain\" lets them end, \"reset\" cuts them.",
        )
        .or("drain"),
        key(
            "timeout",
            DURATION,
            "With \"drain\", how long they may go on; then they are cut. Requests wait a little longer for their object.",
        )
        .or("30s"),
    ],
};

static ASSETS: Section = Section {
    name: "[worker.assets]",
    doc: "Static assets, which versions serve for each other.",
    keys: &[
        key("paths", list(&ASSET_PATHS), "Which paths are static assets: patterns of the whole path, in which `*` stands for any run of characters.").required(),
        key("fallback", Kind::Boolean, "Whether an asset that its version has not got is asked of the others.").or("true"),
        key("retain", Kind::List { of: &VERSION_ID, least: 0 }, "The ids of at most 8 versions that serve assets even where they have no share, or are not deployed any more."),
    ],
};

static VERSION: Section = Section {
    name: "[[worker.version]]",
    doc: "A version of the application and where it runs.",
    keys: &[
        key("id", VERSION_ID, "The identity; a UUID cannot be guessed.").required(),
        key("tag", TAG, "A short name for people, such as a release number."),
        key("message", PROSE, "What the version is about."),
        key("created_on", Kind::DateTime, "When it was made."),
        key(
            "migration",
            TAG,
            "The state of the data that the version needs. Versions that need different ones cannot share a deployment.",
        ),
        key("upstreams", list(&UPSTREAM), "Where it runs; requests go to the less loaded of two at random.")
            .required(),
        key(
            "tls",
            Kind::Table(&UPSTREAM_TLS),
            "How upstreams with \"https://\" are verified, and what they are shown.",
        ),
        key(
            "health",
            Kind::Table(&HEALTH),
            "How upstreams are asked whether they are well. Default: they are not asked.",
        ),
    ],
};

static HEALTH: Section = Section {
    name: "`health`",
    doc: "How upstreams are asked whether they are well.",
    keys: &[
        key(
            "path",
            text("a path and query such as \"/up\""),
            "What is asked for with GET. Either this or `grpc`.",
        ),
        key(
            "grpc",
            text("the name of a gRPC service, or \"\" for the whole server"),
            "The service of a gRPC health check. Needs \"h2c://\" or \"https://\".",
        ),
        key("host", HOST, "The `Host` of the request. Default: the upstream's own."),
        key("status", list(&STATUS), "The statuses that say that an upstream is well. Default: \"200-299\"."),
        key("interval", DURATION, "From one check to the next.").or("2s"),
        key("timeout", DURATION, "For an answer.").or("1s"),
        key(
            "fall",
            Kind::Integer { least: 1, most: 100 },
            "After so many failures one after the other an upstream is down.",
        )
        .or("3"),
        key(
            "rise",
            Kind::Integer { least: 1, most: 100 },
            "After so many successes one after the other it is up again.",
        )
        .or("2"),
    ],
};

static UPSTREAM_TLS: Section = Section {
    name: "`tls`",
    doc: "How upstreams with \"https://\" are verified, and what they are shown.",
    keys: &[
        key(
            "ca",
            PATH,
            "PEM file of the authorities that the upstream's certificate must descend from. Default: the system's.",
        ),
        key(
            "server_name",
            HOST,
            "The name that the upstream's certificate must carry. Default: the host of its URL.",
        ),
        key(
            "certificate",
            PATH,
            "PEM file of the certificate shown to upstreams that ask for one. Needs `key`.",
        ),
        key("key", PATH, "PEM file of that certificate's private key. Needs `certificate`."),
    ],
};

static DEPLOYMENT: Section = Section {
    name: "[worker.deployment]",
    doc: "How traffic is split between versions.",
    keys: &[
        key("id", VERSION_ID, "The identity. Default: a UUID made from the worker's name and the content, the same everywhere."),
        key("created_on", Kind::DateTime, "When it was made."),
        key("author", PROSE, "Who made it."),
        key("source", PROSE, "What made it, such as \"wrangler\"."),
        key("message", PROSE, "Why it was made."),
        key("versions", list(&Kind::Table(&SHARE)), "The versions and their percentages, which must total 100. A version at 0 is reached by override only.").required(),
        key("ring", list(&Kind::Table(&SHARE)), "Explicit arcs of the ring, in order; a version may occur more than once, and its arcs total its percentage. Default: the order of `versions`."),
    ],
};

static SHARE: Section = Section {
    name: "this entry",
    doc: "A version and a percentage.",
    keys: &[
        key("version_id", VERSION_ID, "The `id` of a version of this worker.").required(),
        key("percentage", Kind::Percentage, "The share of traffic in per cent, with at most three decimals.")
            .required(),
    ],
};
