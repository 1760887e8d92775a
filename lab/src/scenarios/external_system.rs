//! System that already runs. The run cannot start or stop its services.

use std::time::Duration;

use super::client::Client;
use super::stand_in::StandIn;
use super::suites::{Fault, Service, State};
use crate::fault_switch::set_fault;

#[derive(Debug)]
pub(super) struct ExternalSystem {
    is_a_up: bool,
    is_b_up: bool,
    has_faults: bool,
    /// `true` if service A may have a fault.
    is_fault_set: bool,
    stand_in: Option<StandIn>,
    time_limit: Duration,
}

impl ExternalSystem {
    /// Detects what runs.
    pub(super) async fn detect(client: &Client, time_limit: Duration) -> Self {
        let get = |service, path| client.http.get(client.url(service, path)).send();
        let is_up = |result: reqwest::Result<_>| !result.is_err_and(|error| error.is_connect());
        let faults = get(Service::A, "faults").await;
        Self {
            is_a_up: is_up(get(Service::A, "health").await),
            is_b_up: is_up(get(Service::B, "health").await),
            has_faults: faults.is_ok_and(|response| response.status() == 200),
            is_fault_set: false,
            stand_in: None,
            time_limit,
        }
    }

    pub(super) fn is_up(&self, service: Service) -> bool {
        if service == Service::A { self.is_a_up } else { self.is_b_up }
    }

    /// Returns the reason if a test in this state is skipped.
    pub(super) async fn enter(&mut self, client: &Client, state: State) -> Result<(), String> {
        self.clear_fault(client).await?;
        match state {
            State::Up(service) => self.require_up(service),
            State::BothUp => {
                self.require_up(Service::A)?;
                self.require_up(Service::B)
            }
            State::Down(service) if self.is_up(service) => {
                Err(format!("service {service:?} is up; stop it and run the scenarios again"))
            }
            State::Down(Service::A) => self.require_up(Service::B),
            State::Down(Service::B) => self.require_up(Service::A),
            State::Restarted(service) => {
                Err(format!("the run does not control service {service:?}"))
            }
            State::Failing(fault) => {
                self.require_up(Service::B)?;
                self.set_fault(client, fault).await
            }
        }
    }

    fn require_up(&self, service: Service) -> Result<(), String> {
        if self.is_up(service) { Ok(()) } else { Err(format!("service {service:?} is down")) }
    }

    async fn set_fault(&mut self, client: &Client, fault: Fault) -> Result<(), String> {
        if !self.is_a_up {
            let stand_in = StandIn::start(&client.service_a, fault, self.time_limit).await?;
            self.stand_in = Some(stand_in);
            return Ok(());
        }
        if !self.has_faults {
            return Err("service A is up and has no /faults; stop it and run the scenarios again"
                .to_owned());
        }
        self.is_fault_set = true;
        let config = fault.to_json(self.time_limit);
        set_fault(&client.http, &client.url(Service::A, "faults"), &config).await
    }

    /// Ends the fault of the previous test.
    pub(super) async fn clear_fault(&mut self, client: &Client) -> Result<(), String> {
        if let Some(stand_in) = self.stand_in.take() {
            stand_in.stop().await;
        }
        if self.is_fault_set {
            set_fault(&client.http, &client.url(Service::A, "faults"), "").await?;
            self.is_fault_set = false;
        }
        Ok(())
    }
}
