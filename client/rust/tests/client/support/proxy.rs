//! A proxy in front of a server that can break its connections.

use std::sync::{Arc, Mutex};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// The proxy, which listens on `target`.
pub struct Proxy {
    pub target: String,
    connections: Arc<Mutex<JoinSet<()>>>,
    opened: watch::Receiver<usize>,
    frozen: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub async fn start(upstream: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap().to_string();
        let connections = Arc::new(Mutex::new(JoinSet::new()));
        let (opening, opened) = watch::channel(0);
        let frozen = watch::Sender::new(false);
        let (upstream, accepted, freezing) = (upstream.to_owned(), connections.clone(), frozen.subscribe());
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                opening.send_modify(|count| *count += 1);
                let connection = forward(client, upstream.clone(), freezing.clone());
                accepted.lock().unwrap().spawn(connection);
            }
        });
        Self {
            target,
            connections,
            opened,
            frozen,
            task,
        }
    }

    /// Returns the number of connections so far.
    pub fn opened(&self) -> usize {
        *self.opened.borrow()
    }

    /// Closes all connections. Data in transit is lost.
    pub fn cut(&self) {
        self.connections.lock().unwrap().abort_all();
    }

    /// Stops forwarding, and keeps all connections open.
    pub fn freeze(&self) {
        self.frozen.send_replace(true);
    }

    /// Waits until the client has closed all of its connections.
    pub async fn closed(&self) {
        let mut connections = std::mem::take(&mut *self.connections.lock().unwrap());
        while super::soon(connections.join_next()).await.is_some() {}
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

async fn forward(mut client: TcpStream, upstream: String, mut frozen: watch::Receiver<bool>) {
    let Ok(mut server) = TcpStream::connect(upstream).await else {
        return;
    };
    tokio::select! {
        _ = copy_bidirectional(&mut client, &mut server) => return,
        _ = frozen.wait_for(|frozen| *frozen) => {}
    }
    std::future::pending::<()>().await;
}
