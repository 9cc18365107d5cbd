//! A request as the arguments of a command describe it, for the commands that answer without a proxy.

use std::net::IpAddr;

use http::{HeaderName, HeaderValue};

pub use crate::control::explain::{Mistake, Request};
use crate::control::explain::{field, method};
use crate::model::head::KEY_HEADER;

/// The arguments that describe a request.
#[derive(Clone, Debug, clap::Args)]
pub struct RequestArgs {
    /// The request's URL. The scheme may be left out, which is then http, and so may the host; without any the path is `/`
    pub url: Option<String>,
    /// The version key: short for --header 'Cloudflare-Workers-Version-Key: KEY'
    #[arg(long)]
    pub key: Option<String>,
    /// A request header; may be given several times. There is no other but Host, which is the URL's
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
    /// The request's method
    #[arg(long, default_value = "GET")]
    pub method: String,
    /// The address that the request comes from. Without it, from one that is not known: `ip.src` is missing, and no
    /// trusted_proxies contain it
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<IpAddr>,
}

impl RequestArgs {
    /// The request that the arguments describe.
    ///
    /// # Errors
    /// The URL, a header or the method is not one that HTTP knows.
    pub fn request(&self) -> Result<Request, Mistake> {
        let method = method(&self.method)?;
        let mut fields = self.headers.iter().map(|text| header(text)).collect::<Result<Vec<_>, _>>()?;
        if let Some(key) = &self.key {
            fields.push(field(KEY_HEADER, key)?);
        }
        Request::new(self.url.clone(), method, fields, self.ip)
    }
}

/// A header line from `Name: value`.
fn header(text: &str) -> Result<(HeaderName, HeaderValue), Mistake> {
    let Some((name, value)) = text.split_once(':') else {
        return Err(Mistake(format!("the header {text:?} has no colon: write 'Name: value'")));
    };
    field(name, value)
}
