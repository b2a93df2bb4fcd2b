using Godwit.Migration;
using Godwit.Migration.HandOver;

namespace Godwit.Simulation;

// Guests that leave, guests that arrive, and who may run them.
internal sealed partial class SimulatedDaemon
{
    private static readonly TimeSpan PrepareDeadline = TimeSpan.FromSeconds(60);
    private static readonly TimeSpan AskDeadline = TimeSpan.FromSeconds(8);
    private static readonly TimeSpan TellDeadline = TimeSpan.FromSeconds(10);
    private static readonly TimeSpan Reservation = TimeSpan.FromSeconds(30);
    private static readonly TimeSpan SettlePatience = TimeSpan.FromSeconds(5);

    private static readonly TimeSpan ServeAgain = TimeSpan.FromMilliseconds(200);

    private Departure? _departure;
    private Connection? _rest;
    private bool _isServing;
    private Arrival? _arrival;
    private readonly Dictionary<string, (Settlement Settlement, Action GoOn)> _deciding = [];

    private sealed record Prepared(Guid Journal, Connection Connection);

    // A destination that lacks memory says on which lanes it waits for the rest.
    private sealed record Answer(HandOverAnswer Verdict, Guid Journal, Connection? Rest = null);

    private sealed record Done;

    public void StartMove()
    {
        string id = world.NextMigration();
        string to = World.Other(Host);
        long epoch = _owned!.Epoch;
        _moving = id;
        world.Note($"{Host}: {id} begins, to {to}");
        if (_storedEpoch != _owned.Epoch && !TryStore(_owned))
        {
            _moving = "";
            world.MoveEnded(id, "ownership not stored", Host);
            return;
        }

        world.Call<Prepared>(
            this, PrepareDeadline, (there, reply) => there.Prepare(id, Host, epoch, reply), prepared =>
            {
                if (prepared is null || host.Qemu is not { IsAlive: true } qemu)
                {
                    _moving = "";
                    NoticeDeath();
                    world.MoveEnded(id, "not prepared", Copy == GuestCopy.Gone ? null : Host);
                    return;
                }

                var commit = new HandOverRecord(
                    HandOverState.Committed, id, _guest, to, epoch + 1, prepared.Journal);
                _departure = new Departure(
                    world, this, qemu, prepared.Connection, commit, world.Plan.Policy, serves: false,
                    end => Ended(commit, end));
                world.Register(prepared.Connection, _departure);
                world.Conform(id, Host);
                _departure.Begin();
            });
    }

    public void Cancel() => _departure?.Cancel();

    /// <summary>An operator says where the guest of an unsettled move runs.</summary>
    /// <returns>False if it is settled by now.</returns>
    public bool Decide(string migration, string where, bool resumesCopy)
    {
        // The guest may lack memory that only the copy here has.
        if (where != Host && world.Plan.Postcopy && Copy != GuestCopy.Gone)
        {
            return false;
        }

        if (!IsAlive || !_deciding.TryGetValue(migration, out (Settlement Settlement, Action GoOn) one)
            || !one.Settlement.Decide(where, resumesCopy, Now))
        {
            return false;
        }

        world.Note($"{Host}: an operator decides that the guest of {migration} runs on {where}");
        world.Report.Count("decided");
        world.Overruled();
        if (where != Host && world.Plan.Postcopy)
        {
            // With the copy here gone nobody has what the guest may lack there.
            world.RestLost(where);
        }

        Post(TimeSpan.Zero, one.GoOn);
        return true;
    }

    /// <summary>The destination has let the guest run.</summary>
    public void Arrived(Arrival arrival)
    {
        world.Note($"{Host}: {arrival.Migration} has arrived");
        Note(_owned!.Arrived(Host));
        _hasDied = false;
    }

    private void Ended(HandOverRecord commit, MigrationSnapshot end)
    {
        _departure = null;
        world.Note($"{Host}: transfer of {commit.Migration} ended: {end.Outcome} {end.ErrorCode} {end.Error}");
        if (_journal.Find(commit.Migration) is { IsOutstanding: true } record)
        {
            Settle(new Settlement(record, HandOverRules.FateOf(end.Outcome), Host, Now), record);
            return;
        }

        world.Call<Done>(
            this, TellDeadline, (there, reply) => there.Abandon(commit.Migration, reply), _ =>
            {
                _moving = "";
                NoticeDeath();
                world.MoveEnded(commit.Migration, end.Outcome.ToString(), Copy == GuestCopy.Gone ? null : Host);
            });
    }

    private void Settle(Settlement settlement, HandOverRecord record)
    {
        _deciding[record.Migration] = (settlement, () => GoOnSettling(settlement, record));
        GoOnSettling(settlement, record);
    }

    private void GoOnSettling(Settlement settlement, HandOverRecord record)
    {
        void Next(TimeSpan after) => Post(after, () => GoOnSettling(settlement, record));
        SettlementStep step = settlement.Next(Now);
        switch (step)
        {
            case SettlementStep.Wait wait:
                // An operator's decision may have come in between, and gone on by itself.
                Next(wait.For);
                break;
            case SettlementStep.Ask ask:
                Ask(record, ask, settlement.Epoch, answer =>
                {
                    settlement.Answered(answer, "", Now);
                    Next(TimeSpan.Zero);
                });
                break;
            case SettlementStep.Serve:
                Serve(settlement, record, () => Next(TimeSpan.Zero));
                break;
            case SettlementStep.End:
                // Two of these may be under way when an operator has decided.
                _deciding.Remove(record.Migration);
                break;
            default:
                PostEffect(step is SettlementStep.Write ? FlushTime : world.Time.Between(0.1, 5), () =>
                {
                    // As there: the first has done it.
                    if (ReferenceEquals(settlement.Next(Now), step))
                    {
                        Do(settlement, step, record);
                        Next(TimeSpan.Zero);
                    }
                });
                break;
        }
    }

    // Brings the guest at the destination what it lacks, until it has all or the link breaks.
    private void Serve(Settlement settlement, HandOverRecord record, Action goOn)
    {
        if (_isServing)
        {
            return;
        }

        void Served(TimeSpan after) => Post(after, () =>
        {
            _isServing = false;
            settlement.Done();
            goOn();
        });

        _isServing = true;
        if (host.Qemu is not { IsAlive: true } qemu)
        {
            world.RestLost(record.Peer);
            Served(AskDeadline);
            return;
        }

        if (_rest is not { } connection)
        {
            Served(ServeAgain);
            return;
        }

        _rest = null;
        world.Note($"{Host}: brings the rest of {record.Migration}");
        world.Report.Count("rest served");
        _departure = new Departure(world, this, qemu, connection, record, world.Plan.Policy, serves: true, end =>
        {
            _departure = null;
            world.Note($"{Host}: the rest of {record.Migration}: {end.Outcome} {end.Error}");
            Served(end.Outcome == MigrationOutcome.Completed ? TimeSpan.Zero : ServeAgain);
        });
        world.Register(connection, _departure);
        _departure.Serve();
    }

    private void Do(Settlement settlement, SettlementStep step, HandOverRecord record)
    {
        switch (step)
        {
            case SettlementStep.Write write:
                if (TryRecord(write.Record))
                {
                    settlement.Done();
                }
                else
                {
                    settlement.Failed(Now);
                }

                break;
            case SettlementStep.EndCopy:
                if (StateOf(record.Migration) == HandOverState.Committed)
                {
                    // By an operator's word it is started anew. A daemon that dies before leaves that to the operator.
                    world.MayBeDead();
                }

                host.Qemu?.Kill();
                settlement.Done();
                break;
            case SettlementStep.RunCopy:
                settlement.CopyRuns(GoOn());
                break;
            case SettlementStep.StartAnew:
                host.Qemu = new ModelQemu(world, Host, world.Guest, incoming: false);
                host.Qemu.Boot();
                settlement.CopyRuns(true);
                break;
            case SettlementStep.Own own:
                Note(own.Owned);
                settlement.Done();
                break;
            case SettlementStep.ReportUnsettled:
                world.Note($"{Host}: {record.Migration} is unsettled");
                world.Unsettled(this, record.Migration);
                settlement.Done();
                break;
            case SettlementStep.Settled settled:
                _moving = "";
                NoticeDeath();
                world.MoveEnded(record.Migration, settled.Guest.ToString(), settled.Guest switch
                {
                    SettledGuest.RunsThere => record.Peer,
                    SettledGuest.RunsHere or SettledGuest.StartedHere => Host,
                    _ => null,
                });
                settlement.Done();
                if (settled.Guest == SettledGuest.RunsThere)
                {
                    world.Call<Done>(
                        this, TellDeadline, (there, reply) => there.Close(record.Migration, reply), _ => { });
                }

                break;
        }
    }

    /// <summary>The guest's QEMU is gone: if it was this host's, it has died.</summary>
    public void NoticeDeath()
    {
        if (Owns && Copy == GuestCopy.Gone && _owned!.Intent == GuestIntent.Running)
        {
            _hasDied = true;
            Note(_owned! with { Intent = GuestIntent.Stopped });
        }
    }

    private void Ask(HandOverRecord record, SettlementStep.Ask ask, long epoch, Action<HandOverAnswer> answered) =>
        world.Call<Answer>(
            this, AskDeadline, (there, reply) => there.Answered(record.Migration, Host, epoch, ask, reply),
            answer =>
            {
                _rest = answer?.Rest;
                answered(answer is null || (answer.Journal != record.PeerJournal && !ask.Fence)
                    ? HandOverAnswer.None : answer.Verdict);
            });

    // The destination's side.

    private void Prepare(string migration, string from, long epoch, Action<Prepared?> reply)
    {
        if (_arrival is not null || _moving.Length > 0 || !GuestOwnership.MayArrive(_owned, Host, epoch))
        {
            reply(null);
            return;
        }

        GuestOwnership? before = _owned is { Intent: not GuestIntent.Incoming } ? _owned : _before;
        var expected = GuestOwnership.Arriving(from, epoch);
        if (!TryStore(expected))
        {
            reply(null);
            return;
        }

        (_owned, _before, _moving) = (expected, before, migration);
        var qemu = new ModelQemu(world, Host, world.Guest, incoming: true) { Migration = migration };
        host.Qemu = qemu;
        PostEffect(world.Time.Between(50, 300), () =>
        {
            Connection connection = world.Connect(from, Host);
            var resuming = new HandOverRecord(
                HandOverState.Resuming, migration, _guest, from, epoch + 1, Guid.Empty);
            _arrival = new Arrival(world, this, qemu, connection, resuming, ArrivalEnded);
            world.Register(connection, _arrival);
            if (!qemu.IsAlive)
            {
                ((IQemuListener)_arrival).QemuEnded();
            }

            reply(new Prepared(_journal.Identity, connection));
            Arrival waiting = _arrival;
            Post(Reservation, () =>
            {
                if (!waiting.HasEnded && !waiting.HasHeard)
                {
                    waiting.Abandon("No lane came in time.");
                }
            });
        });
    }

    private void Abandon(string migration, Action<Done?> reply)
    {
        if (_arrival?.Migration == migration)
        {
            _arrival.Abandon("The source gives up.");
        }

        WhenOver(migration, TellDeadline, _ => reply(new Done()));
    }

    private void Close(string migration, Action<Done?> reply)
    {
        if (_journal.Find(migration) is { State: HandOverState.Resuming } record)
        {
            TryRecord(record with { State = HandOverState.Closed });
        }

        reply(new Done());
    }

    private void Answered(
        string migration, string from, long epoch, SettlementStep.Ask ask, Action<Answer?> reply)
    {
        bool fence = ask.Fence;
        void Give(HandOverAnswer verdict)
        {
            world.Note($"{Host}: answers {verdict} about {migration}{(fence ? ", fenced" : "")}");
            reply(new Answer(verdict, _journal.Identity));
        }

        if (_arrival is { IsFetching: true } fetching && fetching.Migration == migration && !fence)
        {
            Connection connection = world.Connect(from, Host);
            world.Register(connection, fetching);
            fetching.Rejoin(connection, ready =>
            {
                if (ready)
                {
                    world.Note($"{Host}: {migration} lacks {fetching.Qemu.Lacks} pages");
                    reply(new Answer(HandOverAnswer.Fetching, _journal.Identity, connection));
                }
                else
                {
                    // It has ended meanwhile, or is not to be had now: the next question finds out.
                    Give(HandOverAnswer.None);
                }
            });
            return;
        }

        if (fence && _arrival is { IsFetching: true } && _arrival.Migration == migration
            && _owned is not null && _owned.Epoch < epoch
            && HandOverRules.IsFenced(_journal.Find(migration), _guest))
        {
            host.Qemu?.Kill();
            Note(GuestOwnership.Fenced(from, epoch));
        }

        if (_arrival?.Migration == migration && world.Canary != Canary.RefusedAndStillWaiting)
        {
            if (ask.Commits)
            {
                _arrival.Commit();
            }
            else
            {
                _arrival.Abandon("The source asks how it has ended.");
            }
        }

        WhenOver(migration, SettlePatience, over =>
        {
            if (!over && world.Canary != Canary.RefusedAndStillWaiting)
            {
                Give(HandOverAnswer.None);
                return;
            }

            HandOverRecord? record = _journal.Find(migration);
            if (!fence)
            {
                _journal.TryPutBack();
                Give(HandOverRules.Answer(Host, _owned, _hasDied, Copy, _journal, migration, epoch));
                return;
            }

            if (_owned is not null && _owned.Epoch < epoch && HandOverRules.IsFenced(record, _guest))
            {
                host.Qemu?.Kill();
                Note(GuestOwnership.Fenced(from, epoch));
            }

            bool refused = record?.State is not (null or HandOverState.Resuming)
                || TryRecord(new HandOverRecord(HandOverState.Refused, migration, _guest, from, epoch, Guid.Empty));
            Give(refused ? HandOverAnswer.Refused : HandOverAnswer.None);
        });
    }

    private void WhenOver(string migration, TimeSpan patience, Action<bool> then)
    {
        if (_arrival?.Migration != migration)
        {
            then(true);
        }
        else if (patience <= TimeSpan.Zero)
        {
            then(false);
        }
        else
        {
            var step = TimeSpan.FromMilliseconds(50);
            Post(step, () => WhenOver(migration, patience - step, then));
        }
    }

    private void ArrivalEnded(Arrival arrival, MigrationSnapshot end)
    {
        world.Note($"{Host}: arrival of {arrival.Migration} ended: {end.Outcome} {end.ErrorCode}");
        if (end.Outcome == MigrationOutcome.Completed)
        {
            (_arrival, _moving) = (null, "");
            return;
        }

        EndArrival(arrival);
    }

    private void EndArrival(Arrival arrival) => PostEffect(world.Time.Between(1, 100), () =>
    {
        if (!_journal.TryPutBack())
        {
            Post(TimeSpan.FromSeconds(1), () => EndArrival(arrival));
            return;
        }

        arrival.Qemu.Kill();
        PostEffect(world.Time.Between(0.1, 5), () =>
        {
            if (_journal.Find(arrival.Migration) is { State: HandOverState.Resuming or HandOverState.Closed })
            {
                _hasDied = true;
                Note(_owned!.DiedOnArrival(Host));
            }
            else
            {
                Note(_before);
            }

            (_arrival, _moving) = (null, "");
        });
    });
}
