namespace Godwit.Pages;

/// <summary>Takes out of a lane's batches what the destination holds already, or all but what changed in it.</summary>
/// <param name="versions">The lane's own.</param>
public sealed class PageSifter(SentVersions versions)
{
    /// <summary>
    /// Looks at every slot of a batch: a page that is what was last sent is dropped, one that changed a little since
    /// becomes a delta, and what is sent is remembered.
    /// </summary>
    /// <param name="batch">Filled, and with nothing decided yet about its pages.</param>
    /// <param name="blockIndex">The block of its pages.</param>
    /// <param name="sent">What was last sent of the block.</param>
    /// <param name="deltaBytesMax">What a delta may cost; 0 where the destination cannot apply any.</param>
    /// <param name="round">The round in progress.</param>
    /// <param name="changes">The guest writes these pages: they are remembered also when they go for the first time.
    /// </param>
    /// <returns>Pages dropped.</returns>
    public int Sift(
        PageBatchBuilder batch, int blockIndex, PageFingerprints sent, int deltaBytesMax, int round,
        bool changes = false)
    {
        int dropped = 0;
        for (int slot = 0; slot < batch.Slots; slot++)
        {
            PageNumber page = batch.PageOf(slot);
            ReadOnlySpan<byte> content = batch.ContentOf(slot);
            bool again = changes || sent.Has(page);
            if (!sent.Set(page, content))
            {
                batch.Drop(slot);
                dropped++;
            }
            else if (again && deltaBytesMax > 0)
            {
                Span<byte> version = versions.Find(blockIndex, page);
                if (!version.IsEmpty && batch.KindOf(slot) == PageKind.Content)
                {
                    batch.TrySetDelta(slot, version, deltaBytesMax);
                }

                versions.Keep(blockIndex, page, content, round);
            }
        }

        return dropped;
    }

    /// <summary>
    /// The destination turned out not to have a page that was sent: it goes as if for the first time, whole.
    /// </summary>
    public void Forget(int blockIndex, PageNumber page, PageFingerprints sent)
    {
        versions.Forget(blockIndex, page);
        sent.Forget(page);
    }

    /// <summary>A page was sent that is zero by its record and has no slot.</summary>
    /// <returns>False if it was zero when it was last sent: it can be left out.</returns>
    public bool SiftZero(int blockIndex, PageNumber page, PageFingerprints sent)
    {
        versions.Forget(blockIndex, page);
        return sent.Set(page, []);
    }
}
