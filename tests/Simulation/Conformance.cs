using Godwit.Migration.HandOver;

namespace Godwit.Simulation;

/// <summary>Holds what two hosts do in a hand-over against <see cref="HandOverModel"/>.</summary>
/// <remarks>
/// The hosts show which copies there are and what the journals say; the model has hidden state besides: what is on its
/// way, who is up. So every state that the model may be in is followed at once. When none is left, the hosts have done
/// what the model cannot.
/// </remarks>
internal sealed class Conformance
{
    // What one event shows at once, for instance when both daemons die.
    private const int VisibleStepsMax = 3;

    private static readonly Dictionary<HandOverModel, HandOverModel[]> _next = Explore();

    private readonly World _world;
    private readonly string _migration;
    private readonly SimulatedHost _source;
    private readonly SimulatedHost _destination;
    private readonly ModelQemu? _sourceQemu;
    private readonly ModelQemu? _destinationQemu;
    private Shown _shown = new(GuestCopy.Running, null, GuestCopy.Paused, null);
    private HashSet<HandOverModel> _possible = Unseen([new HandOverModel()]);

    public Conformance(World world, string migration, SimulatedHost source, SimulatedHost destination)
    {
        (_world, _migration, _source, _destination) = (world, migration, source, destination);
        (_sourceQemu, _destinationQemu) = (source.Qemu, destination.Qemu);
    }

    /// <summary>What can be seen of a hand-over.</summary>
    private sealed record Shown(
        GuestCopy SourceCopy, HandOverState? SourceRecord, GuestCopy DestinationCopy, HandOverState? DestinationRecord);

    /// <summary>Looks again.</summary>
    public void Observe()
    {
        var now = new Shown(
            _sourceQemu?.Copy ?? GuestCopy.Gone, RecordOf(_source) ?? _shown.SourceRecord,
            _destinationQemu?.Copy ?? GuestCopy.Gone, RecordOf(_destination) ?? _shown.DestinationRecord);
        if (now == _shown)
        {
            return;
        }

        HashSet<HandOverModel> from = _possible;
        for (int steps = 0; steps < VisibleStepsMax; steps++)
        {
            HashSet<HandOverModel> reached = [.. from.SelectMany(state => _next[state])];
            HashSet<HandOverModel> fitting = [.. reached.Where(state => Of(state) == now)];
            if (fitting.Count > 0)
            {
                _possible = Unseen(fitting);
                _shown = now;
                return;
            }

            from = Unseen(reached);
        }

        _world.Violate($"{_migration} goes from {_shown} to {now}, which the model cannot");
    }

    // That nobody will ask again is nothing the model knows.
    private HandOverState? RecordOf(SimulatedHost host) => _world.Recorded(host.Name, _migration) is { } state
        ? state == HandOverState.Closed ? HandOverState.Resuming : state : null;

    private static Shown Of(HandOverModel state) => new(
        state.SourceCopy, state.SourceRecord, state.DestinationCopy, state.DestinationRecord);

    // With everything that may have happened without being seen.
    private static HashSet<HandOverModel> Unseen(IEnumerable<HandOverModel> states)
    {
        var all = new HashSet<HandOverModel>(states);
        var queue = new Queue<HandOverModel>(all);
        while (queue.TryDequeue(out HandOverModel? state))
        {
            foreach (HandOverModel next in _next[state])
            {
                if (Of(next) == Of(state) && all.Add(next))
                {
                    queue.Enqueue(next);
                }
            }
        }

        return all;
    }

    // Faults without end: the model counts them, and the count is taken out here.
    private static Dictionary<HandOverModel, HandOverModel[]> Explore()
    {
        var found = new Dictionary<HandOverModel, HandOverModel[]>();
        var queue = new Queue<HandOverModel>([new HandOverModel()]);
        while (queue.TryDequeue(out HandOverModel? state))
        {
            if (found.ContainsKey(state))
            {
                continue;
            }

            HandOverModel[] next = [.. state.Steps(HandOverModel.Mistake.None)
                .Concat(state.Strikes(HandOverModel.Mistake.None))
                .Append(state with { LinkUp = true })
                .Select(one => one with { Faults = 0 }).Distinct()];
            found[state] = next;
            Array.ForEach(next, queue.Enqueue);
        }

        return found;
    }
}
