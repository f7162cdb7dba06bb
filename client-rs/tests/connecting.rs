//! Finding a node, and being let in or not.

mod fake;

use std::time::Duration;

use batonq_client::{Client, Error, ErrorCode};
use batonq_protocol::Message;
use fake::{FakeNode, welcome, within};

#[tokio::test]
async fn a_client_says_who_it_is() {
    let node = FakeNode::start().await;
    let config = node.config().token("s3cret").worker("mailer-1").program("test/1");
    let (client, _) = tokio::join!(within(config.connect()), async {
        let (mut peer, hello) = node.accept().await;
        assert_eq!((hello.version_min, hello.version_max), (1, 1));
        assert_eq!((hello.token.as_str(), hello.worker.as_str()), ("s3cret", "mailer-1"));
        assert_eq!((hello.client.as_str(), hello.session), ("test/1", 0));
        peer.answer(1, Message::Welcome(Box::new(welcome()))).await;
        peer
    });
    assert_eq!(client.unwrap().node().node_id, "node-1");
}

#[tokio::test]
async fn a_client_that_is_not_let_in_is_told_why() {
    for code in [ErrorCode::Unauthenticated, ErrorCode::UnsupportedVersion] {
        let node = FakeNode::start().await;
        let (client, ()) = tokio::join!(within(node.config().connect()), node.refuse(code));
        assert_eq!(client.unwrap_err().code(), Some(code));
    }
}

#[tokio::test]
async fn a_token_refused_after_a_lost_connection_is_the_end() {
    let node = FakeNode::start().await;
    let (client, mut peer) = node.client().await;
    let (subscription, _) = tokio::join!(client.subscribe("mail", 1), peer.subscribed());
    drop(peer);
    node.refuse(ErrorCode::Unauthenticated).await;

    let mut subscription = subscription.unwrap();
    assert!(within(subscription.next()).await.is_none());
    let refused = subscription.refused().unwrap();
    assert_eq!(refused.code(), Some(ErrorCode::Unauthenticated));
    let error = within(client.stats()).await.unwrap_err();
    assert_eq!(error.code(), Some(ErrorCode::Unauthenticated));
}

#[tokio::test]
async fn each_address_is_named_that_could_not_be_reached() {
    let (one, two) = (FakeNode::start().await, FakeNode::start().await);
    let addresses = [one.address(), two.address()];
    drop((one, two));
    let url = format!("tcp://{}", addresses.join(","));
    let Err(Error::Unreachable { detail }) = within(Client::connect(&url)).await else {
        panic!("there is nobody")
    };
    assert!(addresses.iter().all(|address| detail.contains(address)), "{detail}");
}

#[tokio::test]
async fn a_node_that_is_overloaded_or_silent_leaves_time_for_another() {
    let (silent, overloaded, good) =
        (FakeNode::start().await, FakeNode::start().await, FakeNode::start().await);
    let url = [&silent, &overloaded, &good].map(FakeNode::address).join(",");
    let connecting = Client::builder().url(&url).connect_timeout(Duration::from_millis(900));
    // Which of the nodes is asked first is left to chance, so the others may never be asked.
    let refusing = async {
        overloaded.refuse(ErrorCode::Overloaded).await;
        std::future::pending::<()>().await;
    };
    let connected = async { tokio::join!(connecting.connect(), good.welcome(welcome())).0 };
    let client = tokio::select! {
        client = within(connected) => client,
        () = refusing => unreachable!("it waits for ever"),
    };
    assert!(client.is_ok(), "{client:?}");
}

#[tokio::test]
async fn a_closed_client_says_so() {
    let node = FakeNode::start().await;
    let (client, peer) = node.client().await;
    let clone = client.clone();
    tokio::join!(within(client.close()), peer.stay());
    assert_eq!(within(clone.stats()).await.unwrap_err(), Error::Closed);
}

#[tokio::test]
async fn dropping_the_last_clone_closes_the_connection() {
    let node = FakeNode::start().await;
    let (client, mut peer) = node.client().await;
    let clone = client.clone();
    drop(client);
    let (stats, ()) = tokio::join!(clone.stats(), async {
        let (id, _) = peer.expect().await;
        peer.answer(id, Message::Stats(<_>::default())).await;
    });
    assert!(stats.is_ok());
    drop(clone);
    assert!(peer.next().await.is_none());
}
