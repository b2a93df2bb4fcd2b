using System.Diagnostics;
using System.Runtime.ExceptionServices;
using Godwit.ChunkStore.Storage;

namespace Godwit.Host.Storage;

/// <summary>Reads parts at once where each would wait for its answer, and else one after the other.</summary>
/// <remarks>What is near has answered before a thread wakes.</remarks>
internal abstract class PartReader : IPartReader
{
    private const int PartsAtOnce = 32;
    private static readonly TimeSpan _near = TimeSpan.FromMilliseconds(3);

    /// <summary>An answer has taken long once.</summary>
    protected bool IsFar { get; private set; }

    public void Read(IReadOnlyList<ObjectPart> parts)
    {
        BeginRead();
        int done = 0;
        for (; done < parts.Count && !IsFar; done++)
        {
            long began = Stopwatch.GetTimestamp();
            Read(parts[done]);
            IsFar = Stopwatch.GetElapsedTime(began) > _near;
        }

        if (parts.Count - done < 2)
        {
            parts.Skip(done).ToList().ForEach(Read);
            return;
        }

        int next = done;
        Exception? failure = null;
        void ReadSome()
        {
            try
            {
                while (Interlocked.Increment(ref next) - 1 is var i && i < parts.Count && failure is null)
                {
                    Read(parts[i]);
                }
            }
            catch (Exception e)
            {
                Interlocked.CompareExchange(ref failure, e, null);
            }
        }

        // Threads of its own: those of the pool are few, and all of these wait.
        Thread[] others = [.. Enumerable.Range(0, Math.Min(PartsAtOnce, parts.Count - done) - 1)
            .Select(_ => new Thread(ReadSome) { Name = "store parts", IsBackground = true })];
        Array.ForEach(others, thread => thread.Start());
        ReadSome();
        Array.ForEach(others, thread => thread.Join());
        if (failure is not null)
        {
            ExceptionDispatchInfo.Throw(failure);
        }
    }

    public abstract void Dispose();

    /// <summary>No part is being read.</summary>
    protected virtual void BeginRead()
    {
    }

    /// <summary>Any thread may call, also several at the same time.</summary>
    protected abstract bool TryRead(string name, long offset, Span<byte> into);

    private void Read(ObjectPart part) => part.IsThere = TryRead(part.Name, part.Offset, part.Into.Span);
}
