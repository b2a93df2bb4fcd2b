namespace Godwit.Daemon.Tests;

/// <summary>The machine's clock, moved by a span that a test sets; timers run in real time.</summary>
internal sealed class SettableClock : TimeProvider
{
    private long _offsetTicks;

    public void Advance(TimeSpan span) => Interlocked.Add(ref _offsetTicks, span.Ticks);

    public override DateTimeOffset GetUtcNow() =>
        System.GetUtcNow() + TimeSpan.FromTicks(Interlocked.Read(ref _offsetTicks));
}
