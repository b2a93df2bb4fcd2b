namespace Godwit.Host.Transfers;

/// <summary>Sees to it that one guest of a host is paused at a time: each pause has the link to itself.</summary>
public sealed class SwitchoverTurns : IDisposable
{
    private readonly SemaphoreSlim _turn = new(1);

    /// <summary>Waits for the turn; the caller disposes what it gets when its guest's pause is over.</summary>
    public async Task<IDisposable> EnterAsync()
    {
        await _turn.WaitAsync();
        return new Turn(_turn);
    }

    public void Dispose() => _turn.Dispose();

    private sealed class Turn(SemaphoreSlim turn) : IDisposable
    {
        private int _over;

        public void Dispose()
        {
            if (Interlocked.Exchange(ref _over, 1) == 0)
            {
                turn.Release();
            }
        }
    }
}
