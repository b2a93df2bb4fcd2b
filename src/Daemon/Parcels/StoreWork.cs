using Godwit.Migration;

namespace Godwit.Daemon.Parcels;

/// <summary>Work on a store for which a guest waits: it is given up when the store says nothing for too long.</summary>
/// <remarks>
/// What a system call holds cannot be ended. So it is left behind, with everything that it may still touch: that is
/// disposed of when it comes back, if ever. One caller at a time.
/// </remarks>
/// <param name="store">Its name.</param>
/// <param name="silenceMax">How long it may say nothing.</param>
/// <param name="stop">Cancelled when it is given up: what is left behind begins nothing new.</param>
internal sealed class StoreWork(string store, TimeSpan silenceMax, TimeProvider clock, CancellationTokenSource stop)
    : IAsyncDisposable
{
    private readonly List<object> _owned = [];
    private Task? _left;

    /// <summary>Grows as long as the store takes what it is given.</summary>
    public Func<long> Steps { get; set; } = static () => 0;

    /// <summary>It was given up.</summary>
    public bool IsSilent => _left is not null;

    /// <summary>Disposes of something with this, or when nothing touches it any more.</summary>
    public T Own<T>(T owned)
        where T : notnull
    {
        _owned.Add(owned);
        return owned;
    }

    /// <exception cref="GodwitException"><c>store-silent</c>.</exception>
    public async Task<T> RunAsync<T>(Func<T> work)
    {
        var task = Task.Run(work, CancellationToken.None);
        await WatchAsync(task);
        return await task;
    }

    /// <exception cref="GodwitException"><c>store-silent</c>.</exception>
    public async Task RunAsync(Func<Task> work)
    {
        var task = Task.Run(work, CancellationToken.None);
        await WatchAsync(task);
        await task;
    }

    /// <summary>What is said when it was given up.</summary>
    public GodwitException Silent() => new("store-silent",
        $"Store '{store}' has taken nothing for {silenceMax.TotalSeconds:0} s; the work on it is given up.",
        "See whether its file system or server answers, and try again.");

    public async ValueTask DisposeAsync()
    {
        if (_left is { } left)
        {
            _ = left.ContinueWith(
                async _ => await DisposeOwnedAsync(), CancellationToken.None, TaskContinuationOptions.None,
                TaskScheduler.Default);
            return;
        }

        await DisposeOwnedAsync();
    }

    private async Task WatchAsync(Task task)
    {
        var seen = Steps();
        while (true)
        {
            using var enough = new CancellationTokenSource();
            var first = await Task.WhenAny(task, Task.Delay(silenceMax, clock, enough.Token));
            await enough.CancelAsync();
            if (first == task)
            {
                return;
            }

            var now = Steps();
            if (now == seen)
            {
                _left = task;
                await stop.CancelAsync();
                throw Silent();
            }

            seen = now;
        }
    }

    // What was made last goes first.
    private async Task DisposeOwnedAsync()
    {
        foreach (var owned in _owned.AsEnumerable().Reverse())
        {
            if (owned is IAsyncDisposable waits)
            {
                await waits.DisposeAsync();
            }
            else if (owned is IDisposable one)
            {
                one.Dispose();
            }
        }
    }
}
