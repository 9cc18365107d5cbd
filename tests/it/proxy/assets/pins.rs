//! A page says which version it is of, by `x-deployment-id` or `?dpl=`.

use super::*;

/// Four versions, of which `v1` is everybody's: one at 0 %, a retained one, and one that is nothing.
async fn four() -> (Proxy, [Site; 4]) {
    let path = &["/assets/a.js", "/page"];
    let sites =
        [site("v1", path).await, site("v2", path).await, site("v3", path).await, site("v4", path).await];
    let file = assets(", retain = [\"v3\"]")
        .version("v1", &sites[0].backend, 100)
        .version("v2", &sites[1].backend, 0)
        .spare("v3", &sites[2].backend)
        .version_with("tag = \"a tag+1\"")
        .spare("v4", &sites[3].backend);
    (proxy(&file).await, sites)
}

#[tokio::test]
async fn an_asset_comes_from_the_version_that_its_page_names() {
    let (proxy, sites) = four().await;
    for (target, line) in [
        ("/assets/a.js?dpl=v3", "X: y"),
        ("/assets/a.js?a=b&dpl=v3&dpl=v1", "X: y"),
        ("/assets/a.js?dpl=a%20tag+1", "X: y"),
        ("/assets/a.js", "x-deployment-id:  v3 "),
        ("/assets/a.js", "X-Deployment-Id: a tag+1"),
        // The header is before the query.
        ("/assets/a.js?dpl=v1", "x-deployment-id: v3"),
        // What names no version is as if it were not there.
        ("/assets/a.js?dpl=v3", "x-deployment-id: other"),
        // A pin is before the key.
        ("/assets/a.js?dpl=v3", "Cloudflare-Workers-Version-Key: k"),
    ] {
        let answer = proxy.get_with(target, &[line]).await;
        assert_eq!((answer.text(), &*version(&answer)), ("the file of v3", "v3 asset"), "{target} {line}");
        assert_eq!(sites[2].asked().last().unwrap(), &format!("GET {target} as v3"));
        let (name, value) = line.split_once(':').unwrap();
        assert_eq!(sites[2].last(&name.to_lowercase()).as_deref(), Some(value.trim()));
    }
    assert_eq!(sites[0].count(), 0);
}

#[tokio::test]
async fn a_name_of_no_version_that_serves_assets_is_ignored() {
    let (proxy, sites) = four().await;
    for target in [
        "/assets/a.js?dpl=v2",
        "/assets/a.js?dpl=tag-v2",
        "/assets/a.js?dpl=v4",
        "/assets/a.js?dpl=V3",
        "/assets/a.js?dpl=",
        "/assets/a.js?dpl",
        "/assets/a.js?xdpl=v3",
        "/assets/a.js?dpl=%zz",
        // Only the first counts.
        "/assets/a.js?dpl=x&dpl=v3",
        // And only for assets.
        "/page?dpl=v3",
    ] {
        let answer = proxy.get(target).await;
        assert_eq!((answer.text(), &*version(&answer)), ("the file of v1", "v1 random"), "{target}");
    }
    let long = format!("/assets/a.js?dpl={}", "v".repeat(5000));
    assert_eq!(version(&proxy.get(&long).await), "v1 random");
    assert_eq!((sites[1].count(), sites[3].count()), (0, 0));
}

#[tokio::test]
async fn a_pin_is_for_what_only_reads_and_for_paths_that_nobody_can_take_for_others() {
    let (proxy, sites) = four().await;
    for target in [
        "/assets/../api/pay",
        "/assets/..%2fapi/pay",
        "/assets/%2E%2e/api/pay",
        "/assets/x/..%5C..%5Capi/pay",
        "/assets/./a.js",
        "/assets/..",
    ] {
        for method in ["GET", "POST"] {
            let request = format!(
                "{method} {target}?dpl=v3 HTTP/1.1\r\nHost: shop.example\r\nx-deployment-id: v3\r\n\
                 Content-Length: 0\r\n\r\n"
            );
            let answer = proxy.send(request).await;
            assert_eq!((answer.text(), &*version(&answer)), ("not at v1", "v1 random"), "{method} {target}");
            // It is no asset: its answer is as it came.
            assert_eq!(answer.header("cache-control").as_deref(), Some("public, max-age=600"));
        }
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let request = format!(
            "{method} /assets/a.js?dpl=v3 HTTP/1.1\r\nHost: shop.example\r\nx-deployment-id: v3\r\n\
             Content-Length: 0\r\n\r\n"
        );
        assert_eq!(version(&proxy.send(request).await), "v1 random", "{method}");
    }
    assert_eq!(sites[2].count(), 0);
}

#[tokio::test]
async fn an_override_is_before_a_pin_and_a_pinned_version_that_misses_is_helped_out() {
    let (proxy, sites) = four().await;
    let answer = proxy.get_with("/assets/a.js?dpl=v3", &[&own("v2")]).await;
    assert_eq!((answer.text(), &*version(&answer)), ("the file of v2", "v2 override"));
    sites[2].has(&[]);
    let answer = proxy.get("/assets/a.js?dpl=v3").await;
    assert_eq!((answer.text(), &*version(&answer)), ("the file of v1", "v1 asset"));
    assert_eq!(misses(&proxy, "v3", true), 1);
}

#[tokio::test]
async fn of_several_versions_with_a_tag_the_newest_is_meant() {
    let sites =
        [site("a", &["/assets/a.js"]).await, site("b", &["/assets/a.js"]).await, site("c", &[]).await];
    for (times, expected) in [
        (["2026-11-20T12:00:00Z", "2026-11-20T12:30:00+01:00"], "a asset"),
        (["2026-11-20T12:00:00Z", "2026-11-20T12:30:00Z"], "b asset"),
        // Equally old: the later in the file.
        (["2026-11-20T12:00:00Z", "2026-11-20T13:00:00+01:00"], "b asset"),
    ] {
        let tagged = |at: usize| format!("tag = \"release\"\ncreated_on = {}", times[at]);
        let file = assets("")
            .version("a", &sites[0].backend, 1)
            .version_with(&tagged(0))
            .version("b", &sites[1].backend, 1)
            .version_with(&tagged(1))
            .version("c", &sites[2].backend, 98);
        let answer = proxy(&file).await.get("/assets/a.js?dpl=release").await;
        assert_eq!(version(&answer), expected);
    }
    // An id is before a tag.
    let file = assets("")
        .version("a", &sites[0].backend, 50)
        .version("b", &sites[1].backend, 50)
        .version_with("tag = \"a\"");
    assert_eq!(version(&proxy(&file).await.get("/assets/a.js?dpl=a").await), "a asset");
}
