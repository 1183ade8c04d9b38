//! What every binding of the Net seam must do. Uses the seams alone, so that the production binding's tests can
//! include this file.

use std::io::ErrorKind;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use openraft_rt::AsyncRuntime;
use quorate_io::net::{Listener, Net, ReadHalf, WriteHalf};

/// Runs all cases between two handles, which may be the same. `server_addr` is an address with port 0 that the server
/// can listen at, and a host that the client can resolve.
///
/// # Panics
/// If the binding does not do its duties.
pub async fn suite<N: Net, R: AsyncRuntime>(client: N, server: N, server_addr: &str) {
    exchange(&client, &server, server_addr).await;
    order_and_size::<N, R>(&client, &server, server_addr).await;
    one_way_close(&client, &server, server_addr).await;
    back_pressure::<N, R>(&client, &server, server_addr).await;
    reads_are_cancel_safe::<N, R>(&client, &server, server_addr).await;
    writing_to_a_closed_stream_fails::<N, R>(&client, &server, server_addr).await;
    addresses(&client, &server, server_addr).await;
}

type Halves<N> = (<N as Net>::Read, <N as Net>::Write);

/// A connected pair: the client's halves and the server's.
async fn pair<N: Net>(client: &N, server: &N, addr: &str) -> (Halves<N>, Halves<N>) {
    let mut listener = server.listen(addr).await.expect("the address is free");
    let addr = listener.local_addr().expect("it is bound");
    assert!(!addr.ends_with(":0"), "a port was chosen");
    let near = client.connect(&addr).await.expect("somebody listens");
    let (read, write, _) = listener.accept().await.expect("somebody connected");
    (near, (read, write))
}

async fn read_exactly(read: &mut impl ReadHalf, len: usize) -> BytesMut {
    let mut buf = BytesMut::new();
    while buf.len() < len {
        let before = buf.len();
        let got = read.read(&mut buf).await.expect("the stream is whole");
        assert!(got > 0 && buf.len() == before + got, "a read appends what it says");
    }
    assert_eq!(buf.len(), len, "nothing follows");
    buf
}

async fn exchange<N: Net>(client: &N, server: &N, addr: &str) {
    let ((mut near_read, mut near_write), (mut far_read, mut far_write)) = pair(client, server, addr).await;
    near_write.write(vec![Bytes::from_static(b"pi"), Bytes::new(), Bytes::from_static(b"ng")]).await.expect("sent");
    assert_eq!(read_exactly(&mut far_read, 4).await, "ping");
    far_write.write(vec![Bytes::from_static(b"pong")]).await.expect("sent");
    assert_eq!(read_exactly(&mut near_read, 4).await, "pong");
    near_write.write(Vec::new()).await.expect("nothing is sent");
}

async fn order_and_size<N: Net, R: AsyncRuntime>(client: &N, server: &N, addr: &str) {
    let ((_near_read, mut near_write), (mut far_read, _far_write)) = pair(client, server, addr).await;
    let sizes = [1, 100, 70_000, 3, 1 << 20, 0, 17];
    let expected: Vec<u8> = sizes.iter().enumerate().flat_map(|(number, size)| vec![number as u8; *size]).collect();
    #[allow(clippy::let_underscore_future)]
    let _ = R::spawn(async move {
        for (number, size) in sizes.into_iter().enumerate() {
            near_write.write(vec![Bytes::from(vec![number as u8; size])]).await.expect("sent");
        }
    });
    assert!(read_exactly(&mut far_read, expected.len()).await == expected, "in order, whatever the sizes");
    assert_eq!(far_read.read(&mut BytesMut::new()).await.expect("closed in order"), 0);
}

/// Dropping a sending half ends that direction, after its bytes, and not the other.
async fn one_way_close<N: Net>(client: &N, server: &N, addr: &str) {
    let ((mut near_read, mut near_write), (mut far_read, mut far_write)) = pair(client, server, addr).await;
    near_write.write(vec![Bytes::from_static(b"last")]).await.expect("sent");
    drop(near_write);
    assert_eq!(read_exactly(&mut far_read, 4).await, "last");
    for _ in 0..2 {
        assert_eq!(far_read.read(&mut BytesMut::new()).await.expect("the end"), 0);
    }
    far_write.write(vec![Bytes::from_static(b"answer")]).await.expect("sent");
    assert_eq!(read_exactly(&mut near_read, 6).await, "answer");
}

/// A writer waits for a reader that does not read, and goes on when it does.
async fn back_pressure<N: Net, R: AsyncRuntime>(client: &N, server: &N, addr: &str) {
    const PIECE: usize = 1 << 20;
    let ((_near_read, mut near_write), (mut far_read, _far_write)) = pair(client, server, addr).await;
    let piece = Bytes::from(vec![7; PIECE]);
    let mut sent = 0;
    // Each write is awaited to its end, in a task: a write is not cancel safe.
    let (tell, mut told) = <R::Mpsc as openraft_rt::Mpsc>::channel::<()>(1000);
    #[allow(clippy::let_underscore_future)]
    let _ = R::spawn(async move {
        use openraft_rt::MpscSender;
        for _ in 0..100 {
            near_write.write(vec![piece.clone()]).await.expect("sent");
            tell.send(()).await.expect("the test listens");
        }
    });
    use openraft_rt::MpscReceiver;
    while R::timeout(Duration::from_millis(500), told.recv()).await.is_ok() {
        sent += 1;
        assert!(sent < 100, "it takes everything and nobody reads");
    }
    let mut buf = BytesMut::new();
    let mut received = 0;
    loop {
        buf.clear();
        match far_read.read(&mut buf).await.expect("the stream is whole") {
            0 => break,
            got => received += got,
        }
    }
    assert_eq!(received, 100 * PIECE);
}

async fn reads_are_cancel_safe<N: Net, R: AsyncRuntime>(client: &N, server: &N, addr: &str) {
    let ((_near_read, mut near_write), (mut far_read, _far_write)) = pair(client, server, addr).await;
    let mut buf = BytesMut::new();
    for number in 0..20_u8 {
        let patience = Duration::from_micros(50);
        assert!(R::timeout(patience, far_read.read(&mut buf)).await.is_err(), "there is nothing to read");
        near_write.write(vec![Bytes::from(vec![number])]).await.expect("sent");
        while buf.len() <= usize::from(number) {
            if let Ok(read) = R::timeout(patience, far_read.read(&mut buf)).await {
                assert_eq!(read.expect("the stream is whole"), 1);
            }
        }
    }
    assert_eq!(buf, (0..20).collect::<Vec<u8>>());
}

async fn writing_to_a_closed_stream_fails<N: Net, R: AsyncRuntime>(client: &N, server: &N, addr: &str) {
    let ((near_read, mut near_write), (far_read, far_write)) = pair(client, server, addr).await;
    drop((far_read, far_write));
    let deadline = Duration::from_secs(10);
    R::timeout(deadline, async {
        while near_write.write(vec![Bytes::from_static(b"into the void")]).await.is_ok() {
            R::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("the writer finds out");
    drop(near_read);
}

async fn addresses<N: Net>(client: &N, server: &N, addr: &str) {
    let listener = server.listen(addr).await.expect("the address is free");
    let bound = listener.local_addr().expect("it is bound");
    assert_eq!(server.listen(&bound).await.err().map(|error| error.kind()), Some(ErrorKind::AddrInUse));
    drop(listener);
    let refused = client.connect(&bound).await.err().map(|error| error.kind());
    assert_eq!(refused, Some(ErrorKind::ConnectionRefused));
    server.listen(&bound).await.expect("free again");
    assert!(client.connect("no.such.host.invalid:1").await.is_err());
    assert!(client.connect("no port").await.is_err());
}
