//! A gRPC server with scripted answers, which records its calls.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures_util::{Stream, StreamExt as _, stream};
use palaver::v1::assistant_service_server::{AssistantService, AssistantServiceServer};
use palaver::v1::*;
use prost::Message;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::metadata::MetadataMap;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

/// A step of an answer.
#[derive(Clone)]
pub enum Step {
    /// Sends a message.
    Send(Vec<u8>),
    /// Ends the call with a status.
    Fail(Status),
    /// Waits until the caller cancels the call.
    Hang,
}

impl<M: Message> From<M> for Step {
    fn from(message: M) -> Self {
        Self::Send(message.encode_to_vec())
    }
}

/// An answer: the steps of a stream, or one step of a unary call.
type Answer = Vec<Step>;

/// A call that the server received.
#[derive(Clone)]
pub struct Call {
    pub method: &'static str,
    pub metadata: MetadataMap,
    request: Vec<u8>,
    state: watch::Receiver<State>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Running,
    Answered,
    Abandoned,
}

impl Call {
    pub fn request<M: Message + Default>(&self) -> M {
        M::decode(self.request.as_slice()).unwrap()
    }

    /// Waits until the call is cancelled before its answer is complete.
    pub async fn abandoned(&mut self) {
        let state = super::soon(self.state.wait_for(|state| *state != State::Running)).await;
        assert_eq!(*state.unwrap(), State::Abandoned);
    }

    /// Waits until the answer is complete.
    pub async fn answered(&mut self) {
        let state = super::soon(self.state.wait_for(|state| *state != State::Running)).await;
        assert_eq!(*state.unwrap(), State::Answered);
    }

    pub fn is_running(&self) -> bool {
        *self.state.borrow() == State::Running
    }

    /// Returns the timeout of the call, in the syntax of gRPC.
    pub fn timeout(&self) -> Option<&str> {
        self.metadata
            .get("grpc-timeout")
            .map(|timeout| timeout.to_str().unwrap())
    }
}

/// Records how a call ends, even if its handler is dropped.
struct Running(watch::Sender<State>);

impl Running {
    fn end(&self) {
        self.0.send_replace(State::Answered);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_if_modified(|state| {
            let is_running = *state == State::Running;
            if is_running {
                *state = State::Abandoned;
            }
            is_running
        });
    }
}

#[derive(Default)]
struct Script {
    answers: Mutex<HashMap<&'static str, VecDeque<Answer>>>,
    calls: watch::Sender<Vec<Call>>,
}

/// The server, which listens on `target`.
pub struct ScriptedServer {
    pub target: String,
    script: Arc<Script>,
    task: JoinHandle<()>,
}

impl ScriptedServer {
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1:0").await
    }

    pub async fn start_at(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        Self::serve(listener, Server::builder())
    }

    pub async fn start_with_tls(certificate: &str, key: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate, key));
        Self::serve(listener, Server::builder().tls_config(tls).unwrap())
    }

    /// Starts a server that requires its own certificate from every client.
    pub async fn start_with_mutual_tls(certificate: &str, key: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(certificate, key))
            .client_ca_root(Certificate::from_pem(certificate));
        Self::serve(listener, Server::builder().tls_config(tls).unwrap())
    }

    pub fn start_at_socket(path: &std::path::Path) -> Self {
        let script = Arc::new(Script::default());
        let listener = UnixListenerStream::new(UnixListener::bind(path).unwrap());
        let serving = Server::builder()
            .add_service(service(&script))
            .serve_with_incoming(listener);
        let task = tokio::spawn(async { serving.await.unwrap() });
        Self {
            target: format!("unix:{}", path.display()),
            script,
            task,
        }
    }

    fn serve(listener: TcpListener, mut server: Server) -> Self {
        let script = Arc::new(Script::default());
        let target = listener.local_addr().unwrap().to_string();
        let serving = server
            .add_service(service(&script))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let task = tokio::spawn(async { serving.await.unwrap() });
        Self { target, script, task }
    }

    /// Sets the answers of a method, one for each call. The last one serves all further calls.
    pub fn script(&self, method: &'static str, answers: impl IntoIterator<Item = Answer>) {
        let answers = answers.into_iter().collect();
        self.script.answers.lock().unwrap().insert(method, answers);
    }

    pub fn calls(&self) -> Vec<Call> {
        self.script.calls.borrow().clone()
    }

    pub fn requests<M: Message + Default>(&self) -> Vec<M> {
        self.calls().iter().map(Call::request).collect()
    }

    /// Waits until the server has this number of calls, and returns the last one of them.
    pub async fn call(&self, count: usize) -> Call {
        let mut calls = self.script.calls.subscribe();
        let calls = super::soon(calls.wait_for(|calls| calls.len() >= count)).await;
        calls.unwrap()[count - 1].clone()
    }
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn service(script: &Arc<Script>) -> AssistantServiceServer<Handler> {
    AssistantServiceServer::new(Handler(script.clone()))
}

struct Handler(Arc<Script>);

impl Handler {
    fn begin(&self, method: &'static str, request: Request<impl Message>) -> (Answer, Running) {
        let (state, watched) = watch::channel(State::Running);
        let call = Call {
            method,
            metadata: request.metadata().clone(),
            request: request.get_ref().encode_to_vec(),
            state: watched,
        };
        let mut answers = self.0.answers.lock().unwrap();
        let answers = answers
            .get_mut(method)
            .unwrap_or_else(|| panic!("no scripted answer for {method}"));
        let answer = if answers.len() > 1 {
            answers.pop_front().unwrap()
        } else {
            answers[0].clone()
        };
        self.0.calls.send_modify(|calls| calls.push(call));
        (answer, Running(state))
    }

    async fn unary<M: Message + Default>(
        &self,
        method: &'static str,
        request: Request<impl Message>,
    ) -> Result<Response<M>, Status> {
        let (answer, running) = self.begin(method, request);
        let response = play(&answer[0]).await?;
        running.end();
        Ok(Response::new(M::decode(response.as_slice()).unwrap()))
    }
}

async fn play(step: &Step) -> Result<Vec<u8>, Status> {
    match step {
        Step::Send(message) => Ok(message.clone()),
        Step::Fail(status) => Err(status.clone()),
        Step::Hang => std::future::pending().await,
    }
}

#[tonic::async_trait]
impl AssistantService for Handler {
    type PostUserQueryStream = Pin<Box<dyn Stream<Item = Result<PostUserQueryResponse, Status>> + Send>>;

    async fn post_user_query(
        &self,
        request: Request<PostUserQueryRequest>,
    ) -> Result<Response<Self::PostUserQueryStream>, Status> {
        let (answer, running) = self.begin("PostUserQuery", request);
        let steps = stream::unfold((VecDeque::from(answer), running), |(mut answer, running)| async {
            let step = answer.pop_front();
            if answer.is_empty() && !matches!(step, Some(Step::Hang)) {
                running.end();
            }
            Some((play(&step?).await, (answer, running)))
        });
        let responses = steps.map(|step| Ok(PostUserQueryResponse::decode(step?.as_slice()).unwrap()));
        Ok(Response::new(responses.boxed()))
    }

    async fn post_user_query_unary(
        &self,
        request: Request<PostUserQueryRequest>,
    ) -> Result<Response<PostUserQueryUnaryResponse>, Status> {
        self.unary("PostUserQueryUnary", request).await
    }

    async fn create_assistant(
        &self,
        request: Request<CreateAssistantRequest>,
    ) -> Result<Response<CreateAssistantResponse>, Status> {
        self.unary("CreateAssistant", request).await
    }

    async fn get_assistant(
        &self,
        request: Request<GetAssistantRequest>,
    ) -> Result<Response<GetAssistantResponse>, Status> {
        self.unary("GetAssistant", request).await
    }

    async fn list_messages(
        &self,
        request: Request<ListMessagesRequest>,
    ) -> Result<Response<ListMessagesResponse>, Status> {
        self.unary("ListMessages", request).await
    }

    async fn delete_assistant(
        &self,
        request: Request<DeleteAssistantRequest>,
    ) -> Result<Response<DeleteAssistantResponse>, Status> {
        self.unary("DeleteAssistant", request).await
    }

    async fn cancel_turn(&self, request: Request<CancelTurnRequest>) -> Result<Response<CancelTurnResponse>, Status> {
        self.unary("CancelTurn", request).await
    }
}
