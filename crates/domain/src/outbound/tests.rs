//! A canary listens on this machine: whatever reaches it got through.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// Counts connections, on IPv4 and IPv6.
struct Canary {
    port: u16,
    hits: Arc<AtomicUsize>,
}

impl Canary {
    async fn listen() -> Self {
        let v4 = TcpListener::bind("0.0.0.0:0").await.expect("a free port");
        let port = v4.local_addr().expect("bound").port();
        let hits = Arc::new(AtomicUsize::new(0));
        // A machine without IPv6 has one way less to get here.
        let v6 = TcpListener::bind(("::1", port)).await.ok();
        for listener in [Some(v4), v6].into_iter().flatten() {
            let hits = hits.clone();
            tokio::spawn(async move {
                while listener.accept().await.is_ok() {
                    hits.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        Self { port, hits }
    }

    fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }
}

/// A server that answers everything with a redirect; its address.
async fn redirecting_to(location: String, status: u16) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await;
            let answer = format!(
                "HTTP/1.1 {status} Moved\r\nlocation: {location}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    address
}

fn get(url: &str) -> Option<Request<Vec<u8>>> {
    Request::get(url).body(Vec::new()).ok()
}

#[tokio::test]
async fn no_spelling_name_or_redirect_reaches_a_private_address() {
    let canary = Canary::listen().await;
    let port = canary.port;
    let names = HashMap::from([
        ("rebound.example".to_owned(), vec!["127.0.0.1".parse().expect("an address")]),
        ("mapped.example".to_owned(), vec!["::ffff:127.0.0.1".parse().expect("an address")]),
        ("six.example".to_owned(), vec!["::1".parse().expect("an address")]),
        ("metadata.example".to_owned(), vec!["169.254.169.254".parse().expect("an address")]),
        ("own.example".to_owned(), vec!["0.0.0.0".parse().expect("an address")]),
    ]);
    let hosts = [
        "127.0.0.1",
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "127.127.127.127",
        "0.0.0.0",
        "0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b:1::7f00:1]",
        "[2002:7f00:1::]",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "[fc00::1]",
        "[ff02::1]",
        "[2001:db8::1]",
        "[2001::1]",
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "100.100.100.200",
        "192.0.0.192",
        "198.18.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "localhost",
        "localhost.",
        "LOCALHOST",
        "sub.localhost",
        "ip6-localhost",
        "user@127.0.0.1",
        "example.com@127.0.0.1",
        "①②⑦.⓪.⓪.①",
        "127。0。0。1",
        "rebound.example",
        "REBOUND.example",
        "mapped.example",
        "six.example",
        "metadata.example",
        "own.example",
    ];
    let system = Outbound::new("").expect("nothing is admitted");
    let fixed = Outbound::with_names("", Names::Fixed(names)).expect("nothing is admitted");
    let mut tried = 0;
    for outbound in [&system, &fixed] {
        for host in hosts {
            for scheme in ["https", "http", "ftp", "file"] {
                let Some(request) = get(&format!("{scheme}://{host}:{port}/")) else { continue };
                outbound.send(request).await.expect_err(host);
                tried += 1;
            }
        }
    }
    // Whoever may be called, sends elsewhere. The name is the machine's own, the port the canary's.
    for status in [301, 302, 303, 307, 308] {
        for target in
            ["https://127.0.0.1", "http://127.0.0.1", "https://[::1]", "https://localhost", "//127.0.0.1"]
        {
            let server = redirecting_to(format!("{target}:{port}/"), status).await;
            let admitting = Outbound::new(&server).expect("one host");
            let request = get(&format!("http://{server}/")).expect("a request");
            let answer = admitting.send(request).await.expect("is an answer");
            assert_eq!(answer.status().as_u16(), status);
            tried += 1;
        }
    }
    println!("server-side requests: {tried} ways to a private address, canary hits {}", canary.hits());
    assert_eq!(canary.hits(), 0);

    // The canary would have sung.
    let admitting = Outbound::new(&format!("127.0.0.1:{port}")).expect("one host");
    let request = get(&format!("http://127.0.0.1:{port}/")).expect("a request");
    let _ = tokio::time::timeout(Duration::from_millis(500), admitting.send(request)).await;
    assert_eq!(canary.hits(), 1);
}

#[tokio::test]
async fn what_is_admitted_is_a_host_with_its_port() {
    let outbound = Outbound::new("127.0.0.1:81, git.internal:8443, plain.internal").expect("three hosts");
    let check = |url: &str| outbound.check(&Url::parse(url).expect("an address"));
    for good in [
        "http://127.0.0.1:81/",
        "https://127.0.0.1:81/",
        "https://git.internal:8443/a",
        "https://plain.internal/",
        "https://example.com/",
        "https://93.184.216.34/",
        "https://[2606:4700::1111]/",
    ] {
        assert_eq!(check(good), Ok(()), "{good}");
    }
    for (bad, reason) in [
        ("http://127.0.0.1:82/", Refused::NotHttps),
        ("https://127.0.0.1:82/", Refused::NotPublic),
        ("https://git.internal/", Refused::NotPublic),
        ("http://plain.internal/", Refused::NotHttps),
        ("http://example.com/", Refused::NotHttps),
        ("https://user:secret@example.com/", Refused::Credentials),
        ("https://user@127.0.0.1:81/", Refused::Credentials),
    ] {
        assert_eq!(check(bad), Err(reason), "{bad}");
    }
    assert!(Outbound::new("http://127.0.0.1:81").is_err() && Outbound::new("a b").is_err());
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound").to_string();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("somebody calls");
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while stream.write_all(&[b'x'; 65_536]).await.is_ok() {}
    });
    let outbound = Outbound::new(&address).expect("one host");
    let failure = outbound.send(get(&format!("http://{address}/")).expect("a request")).await;
    assert!(matches!(failure, Err(Failure::TooLarge)), "{failure:?}");
}
