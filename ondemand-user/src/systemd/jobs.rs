//! The ends of jobs. One subscription for all of a connection: with one for each job, a thousand jobs at once
//! are told of each other's ends, and the queue of one that waits for its turn fills up and holds up
//! everything on the connection.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::StreamExt as _;
use tokio::{
    sync::{OnceCell, oneshot},
    task::AbortHandle,
};
use zbus::{Connection, MessageStream, OwnedObjectPath, names::OwnedUniqueName};

use super::{QUEUE, signals::pid1};

const REMOVED: &str = "type='signal',sender='org.freedesktop.systemd1',\
    interface='org.freedesktop.systemd1.Manager',member='JobRemoved',\
    path='/org/freedesktop/systemd1'";

/// The jobs of a connection whose ends are awaited.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    table: Arc<Mutex<Table>>,
    reader: OnceCell<Reader>,
}

#[derive(Debug, Default)]
struct Table {
    /// Several calls may have got the same job: PID 1 merges one into a queued one of the same kind.
    waiting: HashMap<OwnedObjectPath, Vec<oneshot::Sender<String>>>,
    /// Calls that have not returned: the end of their jobs may come first.
    calls: usize,
    /// Ends of jobs since these calls began. Empty without calls.
    early: HashMap<OwnedObjectPath, String>,
    /// The connection is lost: no end comes any more.
    is_over: bool,
}

/// The task that reads the signals. It would keep the connection open.
#[derive(Debug)]
struct Reader(AbortHandle);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A call that queues a job.
pub(super) struct Call(Arc<Mutex<Table>>);

impl Jobs {
    /// Announces a call that queues a job. The match rule is explicit: the stream of a zbus proxy has a short
    /// queue, and first queries the name's owner.
    ///
    /// # Errors
    ///
    /// The bus does not answer.
    pub async fn call(&self, connection: &Connection) -> zbus::Result<Call> {
        let start = || async {
            let ends = MessageStream::for_match_rule(REMOVED, connection, Some(QUEUE)).await?;
            let pid1 = pid1(connection).await?;
            let task = tokio::spawn(read(ends, pid1, Arc::clone(&self.table)));
            zbus::Result::Ok(Reader(task.abort_handle()))
        };
        self.reader.get_or_try_init(start).await?;
        lock(&self.table).calls += 1;
        Ok(Call(Arc::clone(&self.table)))
    }
}

impl Call {
    /// The call has returned this job: its result comes with its end, or never if the connection is lost.
    pub fn job(self, job: OwnedObjectPath) -> oneshot::Receiver<String> {
        let (sender, end) = oneshot::channel();
        let mut table = lock(&self.0);
        match table.early.get(&job) {
            // The receiver is still here.
            Some(result) => drop(sender.send(result.clone())),
            None if table.is_over => {}
            None => table.waiting.entry(job).or_default().push(sender),
        }
        drop(table);
        end
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let mut table = lock(&self.0);
        table.calls -= 1;
        if table.calls == 0 {
            table.early.clear();
        }
    }
}

impl Table {
    fn over(&mut self) {
        self.is_over = true;
        self.waiting.clear();
    }

    fn ended(&mut self, job: OwnedObjectPath, result: String) {
        for waiting in self.waiting.remove(&job).into_iter().flatten() {
            // Whoever waited may have given up.
            let _ = waiting.send(result.clone());
        }
        if self.calls > 0 {
            self.early.insert(job, result);
        }
    }
}

fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn read(mut ends: MessageStream, mut known: OwnedUniqueName, table: Arc<Mutex<Table>>) {
    while let Some(Ok(message)) = ends.next().await {
        let header = message.header();
        // Any user may send a signal to a connection. PID 1 has another name after it has re-executed itself.
        if header.sender() != Some(&*known) {
            match pid1(&Connection::from(&ends)).await {
                Ok(name) if header.sender() == Some(&*name) => known = name,
                _ => continue,
            }
        }
        let end: zbus::Result<(u32, OwnedObjectPath, String, String)> =
            message.body().deserialize();
        match end {
            Ok((_, job, _, result)) => lock(&table).ended(job, result),
            Err(error) => log::debug!("a job's end: {error}"),
        }
    }
    lock(&table).over();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_reaches_its_job_before_and_after_the_reply() {
        let table = Arc::new(Mutex::new(Table::default()));
        let call = || {
            lock(&table).calls += 1;
            Call(Arc::clone(&table))
        };
        let path = |number: u32| OwnedObjectPath::try_from(format!("/job/{number}")).unwrap();
        let ended = |number| lock(&table).ended(path(number), format!("end of {number}"));
        let (first, second) = (call(), call());
        ended(2);
        ended(9); // somebody else's
        let mut second = second.job(path(2));
        assert_eq!(second.try_recv().unwrap(), "end of 2");
        let mut first = first.job(path(1));
        assert!(first.try_recv().is_err());
        ended(1);
        assert_eq!(first.try_recv().unwrap(), "end of 1");
        assert!(lock(&table).early.is_empty() && lock(&table).waiting.is_empty());
        // PID 1 has merged two calls into one job: each of them hears of its end, before it and after.
        let [one, two, three] = [call(), call(), call()];
        let mut ends = [one.job(path(6)), two.job(path(6))];
        ended(6);
        for end in ends.iter_mut().chain([&mut three.job(path(6))]) {
            assert_eq!(end.try_recv().unwrap(), "end of 6");
        }
        // Nothing is remembered while nobody calls.
        ended(3);
        assert!(lock(&table).early.is_empty());
        // Nobody waits for an end that cannot come: neither who waits already, nor who comes then.
        let (mut waits, late) = (call().job(path(4)), call());
        lock(&table).over();
        let gone = Err(oneshot::error::TryRecvError::Closed);
        assert_eq!(waits.try_recv(), gone);
        assert_eq!(late.job(path(5)).try_recv(), gone);
    }
}
