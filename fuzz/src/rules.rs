//! Whatever stands in a rule: nothing panics, every mistake has a place in the text, and what is an expression evaluates on
//! any request within its bounds.

use std::net::IpAddr;
use std::time::Duration;

use gradual::rules::{Expression, Facts, Filter, Parsed, Scratch};

/// The input is an expression, and behind the first line end what a request says: its target, its cookies, a header `x`.
pub fn run(input: &[u8]) {
    let mut parts = input.splitn(4, |&byte| byte == b'\n');
    let mut next = || parts.next().unwrap_or_default();
    let Ok(text) = std::str::from_utf8(next()) else { return };
    let (target, cookie, x) = (next(), next(), next());
    let parsed = Parsed::parse(text);
    if let Err(mistake) = &parsed {
        assert!(text.get(mistake.span.clone()).is_some() && !mistake.title.is_empty(), "{mistake:?}");
    }
    let (filter, value) = (Filter::parse(text), Expression::parse(text));
    for mistake in filter.as_ref().err().into_iter().chain(value.as_ref().err()) {
        assert!(text.get(mistake.span.clone()).is_some() && !mistake.title.is_empty(), "{mistake:?}");
    }
    assert!(parsed.is_ok() || (filter.is_err() && value.is_err()));
    let target = String::from_utf8_lossy(target);
    let (path, query) = target.split_once('?').map_or((&*target, None), |(path, query)| (path, Some(query)));
    let lines = vec![
        ("cookie".to_owned(), cookie.to_vec()),
        ("x".to_owned(), x.to_vec()),
        ("x".to_owned(), cookie.to_vec()),
    ];
    let mut scratch = Scratch::default();
    for client in
        [Some(IpAddr::from([203, 0, 113, 7])), Some(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1])), None]
    {
        let facts = Facts {
            method: "GET",
            version: http::Version::HTTP_2,
            https: client.is_some(),
            authority: "www.example.com",
            path,
            query,
            lines: &lines,
            client,
            time: Duration::from_millis(1_795_233_600_123),
            seed: [1, 2],
            ray: 3,
        };
        if let Ok(parsed) = &parsed {
            let shown = parsed.evaluate(&facts, &mut scratch).to_string();
            // The same again, whatever the scratch holds.
            assert_eq!(parsed.evaluate(&facts, &mut scratch).to_string(), shown);
        }
        if let Ok(filter) = &filter {
            let matched = filter.matches(&facts, &mut scratch);
            let negated = Filter::parse(&format!("not ({text})"));
            assert!(
                negated.is_err()
                    || negated.is_ok_and(|negated| negated.matches(&facts, &mut scratch) != matched)
            );
        }
        if let Ok(value) = &value {
            let length = value.value(&facts, &mut scratch).map_or(0, <[u8]>::len);
            assert!(length <= 64 * 1024 + 2 * input.len());
        }
    }
}
