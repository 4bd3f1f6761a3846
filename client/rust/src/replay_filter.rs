//! Delivers each event of a reply once, even if the turn is posted several times. No I/O.

use crate::Event;
use crate::v1::TextDelta;

#[derive(Debug, Default)]
pub(crate) struct ReplayFilter {
    is_started: bool,
    /// All text that was delivered.
    text: String,
    /// All skill events that were delivered.
    skills: Vec<Event>,
    replay: Option<Replay>,
}

/// A stream that starts with events that were delivered before.
#[derive(Debug)]
struct Replay {
    /// All events of the stream so far, in case it turns out to be a different reply.
    events: Vec<Event>,
    /// The length of the repeated text, in bytes.
    text_length: usize,
    /// The delivered skill events that the stream has yet to repeat.
    expected_skills: Vec<Event>,
}

impl ReplayFilter {
    /// Expects the events of the turn from the first one again, because the turn is posted again.
    pub(crate) fn begin_replay(&mut self) {
        if self.is_started {
            self.replay = Some(Replay {
                events: Vec::new(),
                text_length: 0,
                expected_skills: self.skills.clone(),
            });
        }
    }

    /// Takes the next event of the stream and returns the events to deliver.
    pub(crate) fn accept(&mut self, event: Event) -> Vec<Event> {
        let Some(replay) = &mut self.replay else {
            return vec![self.deliver(event)];
        };
        replay.events.push(event.clone());
        match event {
            Event::Started(_) => Vec::new(),
            Event::TextDelta(TextDelta { text }) => self.match_text(&text),
            Event::SkillCall(_) | Event::SkillResult(_) => {
                match replay.expected_skills.iter().position(|expected| *expected == event) {
                    Some(index) => {
                        replay.expected_skills.swap_remove(index);
                        Vec::new()
                    }
                    None => vec![self.deliver(event)],
                }
            }
            Event::Completed(_) => {
                if replay.text_length < self.text.len() || !replay.expected_skills.is_empty() {
                    self.restart()
                } else {
                    vec![event]
                }
            }
        }
    }

    /// Skips text that was delivered before and delivers the rest; restarts the reply if the text differs.
    fn match_text(&mut self, text: &str) -> Vec<Event> {
        let Some(replay) = &mut self.replay else {
            return Vec::new();
        };
        let expected = &self.text[replay.text_length..];
        if expected.starts_with(text) {
            replay.text_length += text.len();
            Vec::new()
        } else if let Some(new) = text.strip_prefix(expected) {
            replay.text_length = self.text.len() + new.len();
            let text = new.to_owned();
            vec![self.deliver(Event::TextDelta(TextDelta { text }))]
        } else {
            self.restart()
        }
    }

    /// Delivers the new stream from its `started`, which voids all events before it.
    fn restart(&mut self) -> Vec<Event> {
        let replay = self.replay.take();
        self.text.clear();
        self.skills.clear();
        replay
            .into_iter()
            .flat_map(|replay| replay.events)
            .map(|event| self.deliver(event))
            .collect()
    }

    /// Records an event as delivered and returns it.
    fn deliver(&mut self, event: Event) -> Event {
        match &event {
            Event::Started(_) => self.is_started = true,
            Event::TextDelta(TextDelta { text }) => self.text.push_str(text),
            Event::SkillCall(_) | Event::SkillResult(_) => self.skills.push(event.clone()),
            Event::Completed(_) => {}
        }
        event
    }
}
