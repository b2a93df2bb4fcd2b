using System.Buffers;
using System.Net;
using System.Runtime.InteropServices;
using System.Security.Cryptography;
using Amazon.Runtime;
using Amazon.S3;
using Amazon.S3.Model;
using Godwit.ChunkStore.Storage;

namespace Godwit.Host.Storage;

/// <summary>A store in a bucket of an object store that speaks S3.</summary>
/// <remarks>
/// An object is put with <c>If-None-Match: *</c>, which the server decides: it appears whole and once, whoever else is
/// writing. A put whose answer was lost is tried again, and each has a mark by which it knows its own object. Any
/// thread may use it; calls wait, because those of <see cref="IObjectStorage"/> do.
/// </remarks>
public sealed class S3Storage : IStorePlace, IDisposable
{
    // Named for good: with a name of its own each look would leave an object behind if it were cut off.
    private const string Probe = "probe";
    private const string Mark = "godwit-put";
    private const int ProbesAtOnce = 8;
    private const int Attempts = 5;

    // Any single put may have 5 GB, and the largest index 1.8: nothing needs to be put in parts.
    private const int ObjectBytesMax = 2_000_000_000;

    // A server that is slower than this for a whole request is taken for one that does not answer.
    private const int BytesPerSecondMin = 64 << 10;
    private static readonly TimeSpan UsualPatience = TimeSpan.FromSeconds(30);
    private readonly S3Location _location;
    private readonly TimeSpan _patience;
    private readonly AmazonS3Client _client;

    /// <param name="location">The bucket and the way to it.</param>
    /// <param name="patience">How long a request may take besides its bytes.</param>
    /// <exception cref="StorageException">This host has no region for it.</exception>
    public S3Storage(S3Location location, TimeSpan? patience = null)
    {
        _location = location;
        _patience = patience ?? UsualPatience;
        var config = new AmazonS3Config
        {
            // Hashes of chunks say more than checksums that not all servers know.
            RequestChecksumCalculation = RequestChecksumCalculation.WHEN_REQUIRED,
            ResponseChecksumValidation = ResponseChecksumValidation.WHEN_REQUIRED,
            RetryMode = RequestRetryMode.Standard,
            MaxErrorRetry = 3,
            Timeout = Timeout.InfiniteTimeSpan,
        };
        if (location.Endpoint.Length > 0)
        {
            config.ServiceURL = location.Endpoint;
            config.ForcePathStyle = true;
            config.AuthenticationRegion = location.Region.Length > 0 ? location.Region : "us-east-1";
        }
        else if (location.Region.Length > 0)
        {
            config.RegionEndpoint = Amazon.RegionEndpoint.GetBySystemName(location.Region);
        }

        try
        {
            _client = location.CredentialsFile.Length > 0
                ? new AmazonS3Client(new S3Credentials(location.CredentialsFile), config)
                : new AmazonS3Client(config);
        }
        catch (AmazonClientException e)
        {
            throw new StorageException(StorageFailure.Unreachable, $"{location} cannot be reached: {e.Message}", e);
        }
    }

    public void Dispose() => _client.Dispose();

    /// <summary>Sees that the server lets an object appear once only.</summary>
    /// <exception cref="StorageException"><see cref="StorageFailure.Unsuited"/> if it does not.</exception>
    public void Prepare()
    {
        // Of several at the same time one may win: a server that looks first and puts then lets more of them.
        Task<bool>[] puts =
            [.. Enumerable.Range(0, ProbesAtOnce).Select(_ => Task.Run(() => PutIfAbsent(Probe, default)))];
        try
        {
            Task.WaitAll(puts);
        }
        catch (AggregateException e)
        {
            throw Failure("look at it", e.InnerExceptions[0]);
        }

        if (puts.Count(put => put.Result) > 1 || PutIfAbsent(Probe, default))
        {
            throw new StorageException(StorageFailure.Unsuited,
                $"the server of {_location} ignores 'If-None-Match: *', so that one host's object would replace "
                + "another's");
        }
    }

    public string? FindStranger() => Call("list", 0, async stop =>
    {
        ListObjectsV2Response found = await _client.ListObjectsV2Async(
            new ListObjectsV2Request { BucketName = _location.Bucket, Prefix = _location.Prefix, MaxKeys = 2 }, stop);
        return found.S3Objects?.Select(one => one.Key[_location.Prefix.Length..]).FirstOrDefault(
            name => name != Probe);
    });

    public bool PutIfAbsent(string name, ReadOnlyMemory<byte> content) => PutIfAbsent(name, content, static () => true);

    public bool PutIfAbsent(string name, ReadOnlyMemory<byte> content, Func<bool> isWanted)
    {
        string mark = Convert.ToHexStringLower(RandomNumberGenerator.GetBytes(16));
        if (!isWanted())
        {
            throw new StorageException(
                StorageFailure.Unreachable, $"{name} came too late: nobody waited for it any more");
        }

        return Call($"write {name}", content.Length, async stop =>
        {
            for (int attempt = 1; ; attempt++)
            {
                try
                {
                    await PutAsync(name, content, mark, stop);
                    return true;
                }
                catch (AmazonS3Exception e) when (e.StatusCode == HttpStatusCode.PreconditionFailed)
                {
                    // The one that is there may be this one: an answer was lost, and it was sent again.
                    if (await MarkOfAsync(name, stop) is { } there)
                    {
                        return there == mark;
                    }

                    // Removed since.
                    if (attempt == Attempts)
                    {
                        throw;
                    }
                }
                catch (AmazonS3Exception e) when (e.StatusCode == HttpStatusCode.Conflict && attempt < Attempts)
                {
                    // Another put of the name is under way: the next attempt sees how it ended.
                    await Task.Delay(TimeSpan.FromMilliseconds(50 << attempt), stop);
                }
            }
        });
    }

    public ReadOnlyMemory<byte>? TryReadAll(string name) =>
        Call<ReadOnlyMemory<byte>?>($"read {name}", 0, async (stop, patience) =>
        {
            try
            {
                using GetObjectResponse found = await _client.GetObjectAsync(_location.Bucket, KeyOf(name), stop);
                if (found.ContentLength is < 0 or > ObjectBytesMax)
                {
                    throw new IOException($"it is said to have {found.ContentLength} bytes");
                }

                patience.CancelAfter(PatienceFor(found.ContentLength));
                byte[] content = new byte[found.ContentLength];
                await found.ResponseStream.ReadExactlyAsync(content, stop);
                return content;
            }
            catch (AmazonS3Exception e) when (IsAbsent(e))
            {
                return null;
            }
        });

    public bool TryRead(string name, long offset, Span<byte> part)
    {
        int length = part.Length;
        if (length == 0)
        {
            return Call($"read {name}", 0, async stop => await MarkOfAsync(name, stop) is not null);
        }

        // A span does not outlast a wait.
        byte[] buffer = ArrayPool<byte>.Shared.Rent(length);
        try
        {
            bool isWhole = Call($"read {name}", length, async stop =>
            {
                try
                {
                    using GetObjectResponse found = await _client.GetObjectAsync(
                        new GetObjectRequest
                        {
                            BucketName = _location.Bucket, Key = KeyOf(name),
                            ByteRange = new ByteRange(offset, offset + length - 1),
                        },
                        stop);
                    // A server that does not know ranges would send the beginning.
                    return found.HttpStatusCode != HttpStatusCode.PartialContent
                        ? throw new IOException("it gave all of the object instead of a part")
                        : await found.ResponseStream.ReadAtLeastAsync(
                            buffer.AsMemory(0, length), length, throwOnEndOfStream: false, stop) == length;
                }
                catch (AmazonS3Exception e)
                    when (IsAbsent(e) || e.StatusCode == HttpStatusCode.RequestedRangeNotSatisfiable)
                {
                    return false;
                }
            });
            if (isWhole)
            {
                buffer.AsSpan(0, length).CopyTo(part);
            }

            return isWhole;
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(buffer);
        }
    }

    public IPartReader OpenParts() => new Parts(this);

    public IReadOnlyList<StoredObject> List(string folder)
    {
        var found = new List<StoredObject>();
        string? from = null;
        do
        {
            string? after = from;
            ListObjectsV2Response page = Call($"list {folder}", 0, stop => _client.ListObjectsV2Async(
                new ListObjectsV2Request
                {
                    BucketName = _location.Bucket, Prefix = KeyOf(folder) + "/", ContinuationToken = after,
                },
                stop));
            found.AddRange((page.S3Objects ?? []).Select(
                one => new StoredObject(one.Key[_location.Prefix.Length..], one.Size ?? 0)));
            from = page.IsTruncated == true ? page.NextContinuationToken : null;
            if (from is not null && from == after)
            {
                throw Failure($"list {folder}", new IOException("its listing does not go on"));
            }
        }
        while (from is not null);

        return found;
    }

    public void Delete(string name) => Call(
        $"remove {name}", 0, stop => _client.DeleteObjectAsync(_location.Bucket, KeyOf(name), stop));

    private string KeyOf(string name) => _location.Prefix + name;

    private async Task PutAsync(string name, ReadOnlyMemory<byte> content, string mark, CancellationToken stop)
    {
        ArraySegment<byte> bytes = MemoryMarshal.TryGetArray(content, out ArraySegment<byte> array)
            ? array : new ArraySegment<byte>(content.ToArray());
        using var stream = new MemoryStream(bytes.Array ?? [], bytes.Offset, bytes.Count, writable: false);
        var request = new PutObjectRequest
        {
            BucketName = _location.Bucket, Key = KeyOf(name), InputStream = stream, IfNoneMatch = "*",
            // In one piece, signed as a whole: the server sees what came, and every server knows it.
            UseChunkEncoding = false,
        };
        request.Metadata[Mark] = mark;
        await _client.PutObjectAsync(request, stop);
    }

    // Null if there is no such object; empty if it has none.
    private async Task<string?> MarkOfAsync(string name, CancellationToken stop)
    {
        try
        {
            GetObjectMetadataResponse found =
                await _client.GetObjectMetadataAsync(_location.Bucket, KeyOf(name), stop);
            return found.Metadata[Mark] ?? "";
        }
        catch (AmazonS3Exception e) when (IsAbsent(e))
        {
            return null;
        }
    }

    // A bucket that is not there is another matter. An answer to a look without a body says nothing but 404.
    private static bool IsAbsent(AmazonS3Exception e) =>
        e.StatusCode == HttpStatusCode.NotFound && e.ErrorCode != "NoSuchBucket";

    private TimeSpan PatienceFor(long bytes) =>
        _patience + TimeSpan.FromSeconds(bytes / (double)BytesPerSecondMin);

    private T Call<T>(string what, long bytes, Func<CancellationToken, Task<T>> work) =>
        Call(what, bytes, (stop, _) => work(stop));

    private T Call<T>(string what, long bytes, Func<CancellationToken, CancellationTokenSource, Task<T>> work)
    {
        using var patience = new CancellationTokenSource(PatienceFor(bytes));
        try
        {
            return work(patience.Token, patience).GetAwaiter().GetResult();
        }
        catch (Exception e) when (e is not (StorageException or OutOfMemoryException))
        {
            // The client throws whatever it comes upon; to a guest that waits it is all the same.
            throw Failure(what, e);
        }
    }

    private StorageException Failure(string what, Exception e) => e switch
    {
        StorageException known => known,
        AmazonServiceException { ErrorCode: "QuotaExceeded" } or
            AmazonServiceException { StatusCode: HttpStatusCode.InsufficientStorage } =>
            new StorageException(StorageFailure.Full, $"no room to {what} in {_location}: {Why(e)}", e),
        AmazonServiceException { StatusCode: HttpStatusCode.Forbidden or HttpStatusCode.Unauthorized } =>
            new StorageException(StorageFailure.Denied, $"{_location} does not let this host {what}: {Why(e)}", e),
        AmazonServiceException { StatusCode: HttpStatusCode.NotImplemented } =>
            new StorageException(StorageFailure.Unsuited, $"{_location} cannot {what}: {Why(e)}", e),
        AmazonServiceException { ErrorCode: "NoSuchBucket" } => new StorageException(
            StorageFailure.Unreachable, $"there is no bucket {_location.Bucket} for {_location}: make it first", e),
        OperationCanceledException => new StorageException(
            StorageFailure.Unreachable, $"cannot {what} in {_location}: it does not answer", e),
        AmazonClientException when e.Message.Contains("credentials", StringComparison.OrdinalIgnoreCase) =>
            new StorageException(
                StorageFailure.Denied, $"this host has no credentials for {_location}: {e.Message}", e),
        _ => new StorageException(StorageFailure.Unreachable, $"cannot {what} in {_location}: {Why(e)}", e),
    };

    private static string Why(Exception e) => e switch
    {
        AmazonServiceException { ErrorCode: { Length: > 0 } code } service => $"{service.Message} ({code})",
        AmazonServiceException { StatusCode: not 0 } service => $"it says {(int)service.StatusCode}",
        _ => e.InnerException is { } inner && e is AmazonServiceException ? inner.Message : e.Message,
    };

    private sealed class Parts(S3Storage storage) : PartReader
    {
        public override void Dispose()
        {
        }

        protected override bool TryRead(string name, long offset, Span<byte> into) =>
            storage.TryRead(name, offset, into);
    }
}
