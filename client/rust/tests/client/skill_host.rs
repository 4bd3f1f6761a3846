//! The server side of the contract, which skill hosts implement.

use palaver::v1::invoke_skill_response::Outcome;
use palaver::v1::skill_host_service_client::SkillHostServiceClient;
use palaver::v1::skill_host_service_server::{SkillHostService, SkillHostServiceServer};
use palaver::v1::{InvokeSkillRequest, InvokeSkillResponse, ListSkillsRequest, ListSkillsResponse, Skill};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};

struct Clock;

#[tonic::async_trait]
impl SkillHostService for Clock {
    async fn list_skills(&self, _: Request<ListSkillsRequest>) -> Result<Response<ListSkillsResponse>, Status> {
        let clock = Skill {
            name: "clock".into(),
            description: "Tells the time.".into(),
            ..Default::default()
        };
        Ok(Response::new(ListSkillsResponse { skills: vec![clock] }))
    }

    async fn invoke_skill(&self, call: Request<InvokeSkillRequest>) -> Result<Response<InvokeSkillResponse>, Status> {
        let outcome = match call.into_inner().name.as_str() {
            "clock" => Outcome::Content("12:00".into()),
            other => Outcome::Error(format!("there is no {other}")),
        };
        Ok(Response::new(InvokeSkillResponse { outcome: Some(outcome) }))
    }
}

#[tokio::test]
async fn the_generated_server_serves_a_skill_host() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("http://{}", listener.local_addr().unwrap());
    let service = SkillHostServiceServer::new(Clock);
    tokio::spawn(
        Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let mut host = SkillHostServiceClient::new(Endpoint::from_shared(target).unwrap().connect_lazy());
    let skills = host
        .list_skills(ListSkillsRequest {})
        .await
        .unwrap()
        .into_inner()
        .skills;
    assert_eq!(skills[0].name, "clock");
    for (name, outcome) in [
        ("clock", Outcome::Content("12:00".into())),
        ("diary", Outcome::Error("there is no diary".into())),
    ] {
        let call = InvokeSkillRequest {
            name: name.into(),
            ..Default::default()
        };
        assert_eq!(
            host.invoke_skill(call).await.unwrap().into_inner().outcome,
            Some(outcome)
        );
    }
}
