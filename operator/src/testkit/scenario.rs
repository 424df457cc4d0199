//! Plays a kind's story on a real API server: undisturbed, then again and again with one fault at one write, with outdated objects,
//! and with lost events. However it is disturbed, it must end as undisturbed, and a further look must write nothing.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{StreamExt, TryStreamExt, stream};
use kube::runtime::controller::Action;

use super::{Fault, Found, World, dump};
use crate::{Context, Error, bug::Bugs};

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
    /// What must hold at the end, whatever happened.
    pub check: for<'a> fn(&'a World) -> Doing<'a, Found<()>>,
}

/// Looks the operator may need after one step, faults included.
const MOST_LOOKS: usize = 25;
/// Stories that are played at a time.
const AT_A_TIME: usize = 6;

/// What disturbs a story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    /// Nothing.
    None,
    /// This happens to the n-th write.
    AtWrite(usize, Fault),
    /// Right after this step the operator, just started, acts on outdated objects first.
    Outdated(usize),
    /// The events that this step causes are lost; only later ones, or the timer, make the operator look.
    LostEvents(usize),
    /// From this step on lists are outdated for the first look.
    OldLists(usize),
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
}

impl Scenario {
    /// Plays the story in every way. The first way that ends badly is the error.
    pub async fn play(&self, bugs: Bugs) -> Found<Played> {
        let (expected, writes) = self.play_once(Disturbance::None, bugs).await?;
        let all = self.disturbances(writes);
        let crash_points = all.iter().filter(|d| is_crash(d)).count();
        let played = Played { writes, crash_points, other_faults: all.len() - crash_points };
        stream::iter(all)
            .map(|disturbance| {
                let expected = &expected;
                async move {
                    let told = |problem| format!("{}, {disturbance:?}: {problem}", self.name);
                    let (found, _) = self.play_once(disturbance, bugs).await.map_err(told)?;
                    match dump::differences(expected, &found) {
                        None => Ok(()),
                        Some(differences) => Err(told(format!("the end differs:\n  {differences}"))),
                    }
                }
            })
            .buffer_unordered(AT_A_TIME)
            .try_collect::<()>()
            .await?;
        Ok(played)
    }

    fn disturbances(&self, writes: usize) -> Vec<Disturbance> {
        let refusals = [409, 429, 500, 503];
        let at_writes = (1..=writes).flat_map(|nth| {
            let refused = Fault::Refused(refusals[nth % refusals.len()]);
            [Fault::CrashBefore, Fault::CrashAfter, Fault::LostReply, refused]
                .map(|fault| Disturbance::AtWrite(nth, fault))
        });
        let steps = 0..self.steps.len();
        let at_steps = steps
            .flat_map(|step| [Disturbance::Outdated(step), Disturbance::LostEvents(step), Disturbance::OldLists(step)]);
        at_steps.chain(at_writes).collect()
    }

    /// Plays the story once; returns what there is at the end, and how many writes were sent.
    pub async fn play_once(&self, disturbance: Disturbance, bugs: Bugs) -> Found<(Vec<String>, usize)> {
        let world = World::with_bugs(bugs).await?;
        let mut operator = Operator { world: &world, scenario: self, ctx: world.context().await? };
        if let Disturbance::AtWrite(nth, fault) = disturbance {
            world.faults.plan(nth, fault);
        }
        let mut has_lost_events = false;
        for (at, step) in self.steps.iter().enumerate() {
            if let Err(problem) = (step.act)(&world).await {
                if !has_lost_events {
                    return Err(format!("step {:?}: {problem}", step.name));
                }
                // Nobody told the operator of the step before; its timer does.
                operator.come_to_rest().await.map_err(|e| format!("before step {:?}: {e}", step.name))?;
                (step.act)(&world).await.map_err(|e| format!("step {:?}, after the timer: {e}", step.name))?;
            }
            has_lost_events = disturbance == Disturbance::LostEvents(at);
            if has_lost_events {
                continue;
            }
            if disturbance == Disturbance::Outdated(at) {
                operator.act_on_outdated().await?;
            }
            if disturbance == Disturbance::OldLists(at) {
                operator.look_at_old_lists().await?;
            }
            operator.come_to_rest().await.map_err(|e| format!("after step {:?}: {e}", step.name))?;
        }
        operator.come_to_rest().await.map_err(|e| format!("at the end: {e}"))?;
        let writes = world.faults.writes().len();
        operator.writes_nothing().await?;
        (self.check)(&world).await.map_err(|e| format!("at the end: {e}"))?;
        Ok((dump::dump(&world).await?, writes))
    }
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
        self.world.pass(Duration::from_secs(2));
        self.look().await?;
        let since: Vec<_> = self.world.faults.writes().split_off(before);
        if since.is_empty() { Ok(()) } else { Err(format!("a look with nothing to do writes: {since:?}")) }
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
