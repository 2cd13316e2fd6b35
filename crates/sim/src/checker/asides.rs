//! Judges what is not logged: volatile events reach each reader at most once and are never made up, a request is asked at
//! most once and answered at most once, and the answer is its own.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use redeliver_protocol::name::TopicName;
use redeliver_protocol::request::RequestError;

use super::{Case, Rule};
use crate::history::{Process, Run, number_of};

#[derive(Debug, Default)]
pub(super) struct Asides {
    handed: BTreeMap<u64, Vec<TopicName>>,
    reached: BTreeSet<(Run, u64)>,
    topics: BTreeMap<Run, TopicName>,
    asks: BTreeMap<u64, Ask>,
}

#[derive(Debug)]
struct Ask {
    process: Option<Process>,
    is_asked: bool,
    /// What became of it, if that is told; whether it can have been asked then.
    done: Option<bool>,
}

impl Asides {
    pub(super) fn handing(&mut self, number: u64, topics: &[TopicName]) {
        self.handed.insert(number, topics.to_vec());
    }

    pub(super) fn subscribing(&mut self, run: Run, topic: &TopicName) {
        self.topics.insert(run, topic.clone());
    }

    /// A reader is given an event that is not logged.
    pub(super) fn delivered(&mut self, case: &mut Case, run: Run, payload: &Bytes) {
        let number = number_of(payload).unwrap_or(0);
        let topic = self.topics.get(&run);
        let is_real = self.handed.get(&number).is_some_and(|topics| topic.is_some_and(|topic| topics.contains(topic)));
        case.must(is_real, Rule::NothingInvented, || {
            format!("{run:?} got the volatile event {number}, which is not its")
        });
        let is_first = self.reached.insert((run, number));
        case.must(is_first, Rule::AtMostOnce, || format!("{run:?} got the volatile event {number} twice"));
    }

    pub(super) fn asking(&mut self, number: u64, process: Option<Process>) {
        self.asks.insert(number, Ask { process, is_asked: false, done: None });
    }

    pub(super) fn asked(&mut self, case: &mut Case, number: u64) {
        let Some(ask) = self.asks.get_mut(&number) else {
            return case.must(false, Rule::NothingInvented, || format!("request {number} was never made"));
        };
        case.must(!ask.is_asked, Rule::AtMostOnce, || format!("request {number} is asked twice"));
        case.must(ask.done != Some(false), Rule::AtMostOnce, || {
            format!("request {number} is asked, although it was said not to be")
        });
        ask.is_asked = true;
    }

    pub(super) fn answered(&mut self, case: &mut Case, number: u64, result: &Result<Option<u64>, RequestError>) {
        let Some(ask) = self.asks.get_mut(&number) else {
            return case.must(false, Rule::NothingInvented, || format!("request {number} was never made"));
        };
        case.must(ask.done.is_none(), Rule::AtMostOnce, || format!("request {number} is answered twice"));
        let may_be_asked = match result {
            Ok(answer) => {
                case.must(ask.is_asked && *answer == Some(number), Rule::NothingInvented, || {
                    format!("request {number} has the answer of {answer:?}")
                });
                true
            }
            Err(
                RequestError::NotSent
                | RequestError::NoHandler
                | RequestError::TooMany
                | RequestError::Unsupported
                | RequestError::Invalid(_),
            ) => false,
            Err(RequestError::Timeout | RequestError::Gone | RequestError::Refused { .. } | _) => true,
        };
        case.must(may_be_asked || !ask.is_asked, Rule::AtMostOnce, || {
            format!("request {number} was asked, although it is said not to be")
        });
        ask.done = Some(may_be_asked);
    }

    /// Whoever lives must know by now what became of what it asked.
    pub(super) fn settled(&self, case: &mut Case, processes: &[Process]) {
        for (number, ask) in &self.asks {
            let is_open = ask.done.is_none() && ask.process.is_some_and(|process| processes.contains(&process));
            case.must(!is_open, Rule::Settles, || format!("nobody says what became of request {number}"));
        }
    }
}
