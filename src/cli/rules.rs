//! `gradual rules test`: what an expression of the rules language says of a request.

use std::net::IpAddr;
use std::process::ExitCode;

use serde_json::{Value as Json, json};

use super::request::{Mistake, RequestArgs};
use crate::control::explain::Sender;
use crate::diag::Report;
use crate::rules::{Parsed, Scratch, Value};

/// The arguments of `gradual rules`.
#[derive(Clone, Debug, clap::Args)]
pub struct RulesArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: RulesCommand,
}

/// The commands of `gradual rules`.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum RulesCommand {
    /// Say of what type an expression is, and what it says of a request
    #[command(after_help = EXAMPLES)]
    Test(TestArgs),
}

const EXAMPLES: &str = "\
Examples:
  gradual rules test 'http.cookie contains \"user_id\"' --header 'Cookie: user_id=17'
  gradual rules test 'http.request.cookies[\"user_id\"][0]' --header 'Cookie: user_id=17'
  gradual rules test 'regex_replace(http.request.uri.path, \"/asset/(.*)\", \"${1}\")' /asset/img/logo.png
  gradual rules test 'ip.src in {192.0.2.0/24}' --ip 192.0.2.7";

/// The arguments of `gradual rules test`.
#[derive(Clone, Debug, clap::Args)]
pub struct TestArgs {
    /// The expression: a filter, or a value of any type
    pub expression: String,
    /// The request.
    #[command(flatten)]
    pub request: RequestArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Why there is no result.
#[derive(Clone, Debug)]
pub enum Unanswered {
    /// The request cannot be one.
    Request(Mistake),
    /// The expression has a mistake.
    Expression(Box<Report>),
}

/// The answer to `gradual rules test`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tested {
    /// The type, such as `Boolean` or `Array<String>`.
    pub type_name: String,
    /// The result as the language writes it; `missing` where there is none.
    pub result: String,
    /// The same for machines: null where it is missing, addresses as text, and U+FFFD for what is not UTF-8.
    pub json: Json,
}

/// Runs the command: prints the answer and returns 0, or what is wrong and returns 1.
pub fn run(args: &RulesArgs) -> ExitCode {
    let RulesCommand::Test(args) = &args.command;
    let said = match test(args) {
        Ok(tested) => return if super::say(&tested.printed(args.json)) { 0.into() } else { 1.into() },
        Err(Unanswered::Request(mistake)) => format!("error: {mistake}\n"),
        Err(Unanswered::Expression(report)) if args.json => {
            super::say(&format!("{}\n", super::check::json_text(&report.to_json())));
            return ExitCode::FAILURE;
        }
        Err(Unanswered::Expression(report)) => report.render(super::color(&std::io::stderr())),
    };
    super::complain(&said);
    ExitCode::FAILURE
}

/// What an expression says of a request.
///
/// # Errors
/// The expression has a mistake, or the request cannot be one.
pub fn test(args: &TestArgs) -> Result<Tested, Unanswered> {
    let parsed = Parsed::parse(&args.expression).map_err(|mistake| {
        let span = mistake.span.clone();
        let report = Report::new("expression", &args.expression, vec![mistake.diagnostic(span)]);
        Unanswered::Expression(Box::new(report))
    })?;
    let request = args.request.request().map_err(Unanswered::Request)?;
    let target = request.target().map_err(Unanswered::Request)?;
    let lines = request.lines(&target, &request.headers);
    let facts = request.facts(&target, &lines, &Sender::unknown(&request));
    let mut scratch = Scratch::default();
    let value = parsed.evaluate(&facts, &mut scratch);
    Ok(Tested { type_name: parsed.type_name(), result: value.to_string(), json: machine(&value) })
}

/// A result for machines.
fn machine(value: &Value<'_>) -> Json {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match value {
        Value::Missing => Json::Null,
        Value::Bool(value) => (*value).into(),
        Value::Int(value) => (*value).into(),
        Value::Ip(value) => IpAddr::to_string(value).into(),
        Value::Bytes(bytes) => text(bytes).into(),
        Value::Array(values) => values.iter().map(machine).collect(),
        Value::Map(entries) => {
            Json::Object(entries.iter().map(|(key, value)| (text(key), machine(value))).collect())
        }
    }
}

impl Tested {
    fn printed(&self, as_json: bool) -> String {
        if as_json {
            let json = json!({ "type": self.type_name, "result": self.json });
            return format!("{}\n", super::check::json_text(&json));
        }
        format!("type    {}\nresult  {}\n", self.type_name, self.result)
    }
}
