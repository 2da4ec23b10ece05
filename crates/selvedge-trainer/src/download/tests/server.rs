//! A small http server on 127.0.0.1 that does exactly what a test says, right or wrong.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

/// What a client asked for.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub path: String,
    /// The first byte of a `Range: bytes=N-`.
    pub offset: Option<usize>,
    /// How many requests came before this one.
    pub index: usize,
}

/// Answers one connection after the other until it is dropped.
pub(super) struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub(super) fn start(answer: impl Fn(&Request, &mut TcpStream) -> io::Result<()> + Send + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let (requests, stop) = (Arc::clone(&requests), Arc::clone(&stop));
            move || {
                for stream in listener.incoming() {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let mut stream = stream.unwrap();
                    let index = requests.lock().unwrap().len();
                    let Some(request) = read_request(&stream, index) else { continue };
                    requests.lock().unwrap().push(request.clone());
                    // The client hangs up on a hostile answer: that is what is being tested.
                    let _ = answer(&request, &mut stream);
                }
            }
        });
        Self { address, requests, stop, thread: Some(thread) }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/set", self.address)
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn read_request(stream: &TcpStream, index: usize) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
    let mut offset = None;
    loop {
        let line = lines.next()?.ok()?.to_ascii_lowercase();
        if line.is_empty() {
            return Some(Request { path, offset, index });
        }
        if let Some(range) = line.strip_prefix("range: bytes=") {
            offset = range.strip_suffix('-').and_then(|first| first.parse().ok());
        }
    }
}

/// Writes a head with these header lines, and a body.
pub(super) fn respond(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) -> io::Result<()> {
    write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\n{headers}\r\n")?;
    stream.write_all(body)
}

/// Answers as a well-behaved server does, ranges included.
pub(super) fn serve(request: &Request, stream: &mut TcpStream, content: &[u8]) -> io::Result<()> {
    let total = content.len();
    match request.offset {
        Some(first) if first >= total => {
            let headers = format!("Content-Range: bytes */{total}\r\nContent-Length: 0\r\n");
            respond(stream, "416 Range Not Satisfiable", &headers, b"")
        }
        Some(first) => {
            let headers =
                format!("Content-Range: bytes {first}-{}/{total}\r\nContent-Length: {}\r\n", total - 1, total - first);
            respond(stream, "206 Partial Content", &headers, &content[first..])
        }
        None => respond(stream, "200 OK", &format!("Content-Length: {total}\r\n"), content),
    }
}
