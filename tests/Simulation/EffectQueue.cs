using Godwit.Migration;

namespace Godwit.Simulation;

/// <summary>An engine's effects, performed in order, each when the one before is done.</summary>
internal sealed class EffectQueue(World world, SimulatedDaemon daemon, Func<Effect, TimeSpan> perform)
{
    private readonly Queue<Effect> _waiting = new();
    private bool _performing;

    public void Add(Effect effect) => _waiting.Enqueue(effect);

    /// <summary>Begins with the next, unless one is being performed.</summary>
    public void GoOn()
    {
        if (_performing || !_waiting.TryDequeue(out Effect? next))
        {
            return;
        }

        _performing = true;
        daemon.PostEffect(world.Time.Between(0.02, 0.5), () => daemon.Post(perform(next), () =>
        {
            _performing = false;
            GoOn();
        }));
    }
}
