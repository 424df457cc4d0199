//! Plays a kind's story on a real API server: undisturbed, then again and again with a fault at a write, with outdated objects,
//! and with lost events. However it is disturbed, it must end as undisturbed, and a further look must write nothing.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::try_join_all;
use kube::runtime::controller::Action;

use super::{Fault, Found, WatchFault, World, dump, world::eventually};
use crate::{Context, Error, Running, bug::Bugs};

/// Work on a world.
pub type Doing<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A look at every object of a kind.
pub type Reconcile = for<'a> fn(&'a World, Arc<Context>) -> Doing<'a, Result<Action, Error>>;

/// A look at every object of a kind as it was some versions ago.
pub type ReconcileOutdated = for<'a> fn(&'a World, Arc<Context>, usize) -> Doing<'a, Result<(), Error>>;

/// Something that happens outside of the operator: a user's change, a worker's report, a Job's end. It also checks what can be
/// seen at that moment, and says what is missing.
#[derive(Clone, Copy)]
pub struct Step {
    /// What happens, as a person says it.
    pub name: &'static str,
    /// Does it.
    pub act: for<'a> fn(&'a World) -> Doing<'a, Found<()>>,
}

/// A story of one kind.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Name, for messages.
    pub name: &'static str,
    /// What happens, in order; the operator comes to rest after each.
    pub steps: &'static [Step],
    /// Looks once at every object of the kind in the world.
    pub reconcile: Reconcile,
    /// Looks once at every object as it was in the n-th older version, if there is one.
    pub reconcile_outdated: ReconcileOutdated,
    /// What the rest of the cluster does at any time, as to end pods that nobody wants any more.
    pub tidy: for<'a> fn(&'a World) -> Doing<'a, Found<()>>,
    /// What must hold at the end, whatever happened.
    pub check: for<'a> fn(&'a World) -> Doing<'a, Found<()>>,
}

/// Looks the operator may need after one step, faults included.
const MOST_LOOKS: usize = 25;
/// Disturbances that may be given back in all, as the write they are meant for is not sent.
const MOST_GIVEN_BACK: usize = 100;
/// Stories that are played at a time.
const AT_A_TIME: usize = 6;

/// Longest a step may take where the controller itself is at work, on a busy machine.
const LIVE_DEADLINE: Duration = Duration::from_secs(180);

/// What disturbs the operator after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// This happens to the n-th write after the step, counted from 1.
    AtWrite(usize, Fault),
    /// The operator, just started, acts on outdated objects first.
    Outdated,
    /// The events that the step causes are lost; only later ones, or the timer, make the operator look.
    LostEvents,
    /// Lists are outdated for the first look.
    OldLists,
}

/// What a scenario was put through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Played {
    /// Writes of the undisturbed story.
    pub writes: usize,
    /// Crashes that were tried: before and after each write.
    pub crash_points: usize,
    /// Other disturbances that were tried.
    pub other_faults: usize,
    /// Stories it took: each is disturbed after several steps.
    pub stories: usize,
}

/// The undisturbed story.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calm {
    /// What there is once the operator has come to rest after each step.
    pub rests: Vec<Vec<String>>,
    /// Writes after each step.
    pub writes: Vec<usize>,
    /// What there is at the end.
    pub end: Vec<String>,
}

/// Disturbances that were not tried yet, by step.
struct Pending {
    by_step: Mutex<Vec<VecDeque<Disturbance>>>,
    given_back: AtomicUsize,
}

impl Pending {
    fn new(calm: &Calm) -> Self {
        let by_step = calm.writes.iter().map(|writes| disturbances(*writes)).collect();
        Self { by_step: Mutex::new(by_step), given_back: AtomicUsize::new(0) }
    }

    fn counted(&self, counts: impl Fn(&Disturbance) -> bool) -> usize {
        self.lock().iter().flatten().filter(|disturbance| counts(disturbance)).count()
    }

    fn take(&self, step: usize) -> Option<Disturbance> {
        self.lock().get_mut(step).and_then(VecDeque::pop_front)
    }

    /// Puts back what did not come to pass, to be tried last; not for ever.
    fn give_back(&self, step: usize, disturbance: Disturbance) -> Found<()> {
        let given_back = self.given_back.fetch_add(1, Ordering::Relaxed);
        if given_back >= MOST_GIVEN_BACK {
            return Err(format!("{disturbance:?}: the write that was to be disturbed is not sent"));
        }
        if let Some(queue) = self.lock().get_mut(step) {
            queue.push_back(disturbance);
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<VecDeque<Disturbance>>> {
        self.by_step.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All that is tried after a step with so many writes.
fn disturbances(writes: usize) -> VecDeque<Disturbance> {
    let refusals = [409, 429, 500, 503];
    let at_writes = (1..=writes).flat_map(|nth| {
        let refused = Fault::Refused(refusals[nth % refusals.len()]);
        [Fault::CrashBefore, Fault::CrashAfter, Fault::LostReply, refused].map(|fault| Disturbance::AtWrite(nth, fault))
    });
    [Disturbance::Outdated, Disturbance::LostEvents, Disturbance::OldLists].into_iter().chain(at_writes).collect()
}

impl Scenario {
    /// Plays the story until every disturbance was tried after every step. The first way that ends badly is the error.
    ///
    /// One story is disturbed after one step, and again after a later one, as long as everything is then as in the undisturbed
    /// story: what follows can't tell the difference, so the story counts for both.
    pub async fn play(&self, bugs: Bugs) -> Found<Played> {
        let calm = self.play_undisturbed(bugs).await?;
        let pending = Pending::new(&calm);
        let crash_points = pending.counted(is_crash);
        let other_faults = pending.counted(|disturbance| !is_crash(disturbance));
        let players = (0..AT_A_TIME).map(|_| async {
            let mut stories = 0;
            while pending.counted(|_| true) > 0 {
                self.play_disturbed(&pending, &calm, bugs).await?;
                stories += 1;
            }
            Ok::<usize, String>(stories)
        });
        let stories = try_join_all(players).await?.into_iter().sum();
        Ok(Played { writes: calm.writes.iter().sum(), crash_points, other_faults, stories })
    }

    /// Plays the story once, with nothing in its way.
    pub async fn play_undisturbed(&self, bugs: Bugs) -> Found<Calm> {
        let world = World::with_bugs(bugs).await?;
        let mut operator = Operator { world: &world, scenario: self, ctx: world.context().await? };
        let mut calm = Calm::default();
        for step in self.steps {
            let before = world.faults.writes().len();
            (step.act)(&world).await.map_err(|e| format!("step {:?}: {e}", step.name))?;
            operator.come_to_rest().await.map_err(|e| format!("after step {:?}: {e}", step.name))?;
            calm.writes.push(world.faults.writes().len() - before);
            calm.rests.push(dump::dump(&world).await?);
        }
        calm.end = operator.end().await?;
        Ok(calm)
    }

    /// Plays the story with the controller itself at work, which looks when its watches or its timer say so, while this happens to
    /// every so many-th event of its watches, from this one on. It must end as the undisturbed story. Returns how many events were
    /// disturbed.
    pub async fn play_live(
        &self,
        calm: &Calm,
        (fault, every, first): (WatchFault, usize, usize),
        controller: impl FnOnce(Arc<Context>) -> Running,
    ) -> Found<usize> {
        let world = World::new().await?;
        let ctx = world.context_with(|settings| settings.look_again_seconds = 1).await?;
        world.faults.disturb_watches(fault, every, first);
        let (stop, metrics) = (ctx.stop.clone(), ctx.metrics.clone());
        let running = tokio::spawn(controller(ctx));
        let played = self.played_live(&world, calm).await;
        // What failed is told all the same where this can't be read.
        let left = if played.is_err() { dump::dump(&world).await.unwrap_or_default() } else { Vec::new() };
        stop.cancel();
        let stopped = tokio::time::timeout(LIVE_DEADLINE, running).await;
        let told = |problem: String| {
            let text = metrics.text();
            let looks: Vec<&str> =
                text.lines().filter(|l| l.starts_with("controller_runtime_reconcile_total")).collect();
            let writes = world.faults.writes();
            let newest: Vec<_> = writes.iter().rev().take(12).collect();
            format!(
                "{}, {fault:?} every {every} from {first}: {problem}; looks {looks:?}, newest writes {newest:?}, what there is: {left:#?}",
                self.name
            )
        };
        played.map_err(told)?;
        stopped.map_err(|_| told("the controller does not stop".to_owned()))?.map_err(|e| told(e.to_string()))?;
        Ok(world.faults.disturbed_events())
    }

    async fn played_live(&self, world: &World, calm: &Calm) -> Found<()> {
        for step in self.steps {
            eventually(LIVE_DEADLINE, step.name, async || (step.act)(world).await).await?;
        }
        eventually(LIVE_DEADLINE, "the end", async || {
            (self.tidy)(world).await?;
            (self.check)(world).await?;
            let end = dump::dump(world).await?;
            dump::differences(&calm.end, &end)
                .map_or(Ok(()), |differences| Err(format!("it differs:\n  {differences}")))
        })
        .await
    }

    async fn play_disturbed(&self, pending: &Pending, calm: &Calm, bugs: Bugs) -> Found<()> {
        let mut tried = Vec::new();
        let played = self.disturbed(pending, calm, bugs, &mut tried).await;
        played.map_err(|problem| format!("{}, {}: {problem}", self.name, tried.join(", then ")))
    }

    async fn disturbed(&self, pending: &Pending, calm: &Calm, bugs: Bugs, tried: &mut Vec<String>) -> Found<()> {
        let world = World::with_bugs(bugs).await?;
        let mut operator = Operator { world: &world, scenario: self, ctx: world.context().await? };
        let (mut is_calm, mut has_lost_events) = (true, false);
        for (at, step) in self.steps.iter().enumerate() {
            operator.act(step, has_lost_events).await?;
            let disturbance = if is_calm { pending.take(at) } else { None };
            if let Some(disturbance) = disturbance {
                tried.push(format!("{disturbance:?} after {:?}", step.name));
            }
            has_lost_events = disturbance == Some(Disturbance::LostEvents);
            if has_lost_events {
                is_calm = false;
                continue;
            }
            operator.disturb(disturbance).await?;
            operator.come_to_rest().await.map_err(|e| format!("after step {:?}: {e}", step.name))?;
            if let (Some(disturbance), true) = (disturbance, world.faults.take_back_planned()) {
                // A look more or less: what was measured is written at each. Another story meets the write.
                tried.pop();
                pending.give_back(at, disturbance)?;
            }
            if disturbance.is_some() || !is_calm {
                is_calm = dump::dump(&world).await? == calm.rests[at];
            }
        }
        let end = operator.end().await?;
        match dump::differences(&calm.end, &end) {
            None => Ok(()),
            Some(differences) => Err(format!("the end differs:\n  {differences}")),
        }
    }
}

/// For stories in which the rest of the cluster has nothing to do.
pub fn nothing_to_tidy(_: &World) -> Doing<'_, Found<()>> {
    Box::pin(async { Ok(()) })
}

fn is_crash(disturbance: &Disturbance) -> bool {
    matches!(disturbance, Disturbance::AtWrite(_, Fault::CrashBefore | Fault::CrashAfter))
}

struct Operator<'a> {
    world: &'a World,
    scenario: &'a Scenario,
    ctx: Arc<Context>,
}

enum Look {
    Done,
    Failed(String),
    Crashed,
}

impl Operator<'_> {
    /// Does a step. Where the operator was told nothing of the step before, its timer makes it look first.
    async fn act(&mut self, step: &Step, has_lost_events: bool) -> Found<()> {
        let Err(problem) = (step.act)(self.world).await else { return Ok(()) };
        if !has_lost_events {
            return Err(format!("step {:?}: {problem}", step.name));
        }
        self.come_to_rest().await.map_err(|e| format!("before step {:?}: {e}", step.name))?;
        (step.act)(self.world).await.map_err(|e| format!("step {:?}, after the timer: {e}", step.name))
    }

    async fn disturb(&mut self, disturbance: Option<Disturbance>) -> Found<()> {
        match disturbance {
            Some(Disturbance::AtWrite(nth, fault)) => {
                self.world.faults.plan(nth, fault);
                Ok(())
            }
            Some(Disturbance::Outdated) => self.act_on_outdated().await,
            Some(Disturbance::OldLists) => self.look_at_old_lists().await,
            Some(Disturbance::LostEvents) | None => Ok(()),
        }
    }

    /// Looks until nothing is to be done, makes sure of it, and returns what there is.
    async fn end(&mut self) -> Found<Vec<String>> {
        self.come_to_rest().await.map_err(|e| format!("at the end: {e}"))?;
        self.writes_nothing().await?;
        (self.scenario.check)(self.world).await.map_err(|e| format!("at the end: {e}"))?;
        dump::dump(self.world).await
    }

    /// Looks until nothing is to be done, as the controller would: again after an error, after a crash, and after own writes, for
    /// their events come back. A look that wrote nothing and ended well is the last one.
    async fn come_to_rest(&mut self) -> Found<()> {
        let mut last = String::new();
        for _ in 0..MOST_LOOKS {
            let stored = self.world.faults.stored();
            let outcome = self.look().await?;
            self.world.pass(Duration::from_secs(1));
            match outcome {
                Look::Done if self.world.faults.stored() == stored => return Ok(()),
                Look::Done => last = "it keeps writing".to_owned(),
                Look::Failed(error) => last = error,
                Look::Crashed => self.ctx = self.world.context().await?,
            }
        }
        Err(format!("the operator does not come to rest within {MOST_LOOKS} looks: {last}"))
    }

    async fn look(&self) -> Found<Look> {
        let reconcile = (self.scenario.reconcile)(self.world, self.ctx.clone());
        Ok(tokio::select! {
            outcome = reconcile => match outcome {
                Ok(_) => Look::Done,
                Err(error) => Look::Failed(error.to_string()),
            },
            () = self.world.faults.crashed() => Look::Crashed,
        })
    }

    /// Once everything is at rest, a look must not write.
    async fn writes_nothing(&self) -> Found<()> {
        let before = self.world.faults.writes().len();
        let counted = self.ctx.metrics.writes();
        self.world.pass(Duration::from_secs(2));
        self.look().await?;
        let since: Vec<_> = self.world.faults.writes().split_off(before);
        match (since.is_empty(), self.ctx.metrics.writes() - counted) {
            (true, 0) => Ok(()),
            // The metric also counts Events, which the fault layer lets pass.
            (_, counted) => Err(format!("a look with nothing to do writes {counted} times: {since:?}")),
        }
    }

    /// A process that has just started, its cache still old. Errors are fine here: what counts is what it leaves behind.
    async fn act_on_outdated(&mut self) -> Found<()> {
        self.ctx = self.world.context().await?;
        for nth in 0..MOST_LOOKS {
            if let Err(Error::Internal(_)) = (self.scenario.reconcile_outdated)(self.world, self.ctx.clone(), nth).await
            {
                break;
            }
        }
        Ok(())
    }

    async fn look_at_old_lists(&self) -> Found<()> {
        self.world.faults.serve_old_lists(true);
        self.look().await?;
        self.world.faults.serve_old_lists(false);
        Ok(())
    }
}
