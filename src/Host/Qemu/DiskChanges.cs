using System.Net.Sockets;
using System.Text.Json.Nodes;

namespace Godwit.Host.Qemu;

/// <summary>
/// Which parts of a guest's disk images change while they are looked through, by QEMU's dirty bitmaps.
/// </summary>
/// <remarks>
/// A bitmap for each image, on the node of the file itself; for raw images, since what a format writes when QEMU closes
/// the image comes after the last look.
/// QEMU gives a bitmap's contents only to NBD clients, so each is exported for as long as it is read. One caller at a
/// time. See docs/decisions/disk-changes.md.
/// </remarks>
internal sealed class DiskChanges : IAsyncDisposable
{
    // One bit per so many bytes: as coarse as QEMU's default for large images, 16 KiB of bitmap for 8 GiB.
    private const int Granularity = 64 << 10;
    private static readonly TimeSpan ExportGone = TimeSpan.FromSeconds(5);
    private readonly QemuMachine _machine;
    private readonly string _socket;
    private readonly IReadOnlyList<(string Path, string Node)> _images;
    private int _generation;
    private int _exports;
    private bool _isDisposed;

    private DiskChanges(QemuMachine machine, string socket, IReadOnlyList<(string Path, string Node)> images)
    {
        _machine = machine;
        _socket = socket;
        _images = images;
    }

    /// <summary>Whether there is anything to watch.</summary>
    public bool IsEmpty => _images.Count == 0;

    /// <summary>Begins: from now on every write to these images counts.</summary>
    /// <returns>Null if QEMU cannot tell: each image has to be looked through as a whole then.</returns>
    public static async Task<DiskChanges?> TryBeginAsync(
        QemuMachine machine, IReadOnlyList<string> paths, string runtimeDirectory, CancellationToken cancellationToken)
    {
        string socket = Path.Combine(runtimeDirectory, "changes.sock");
        DiskChanges? changes = null;
        try
        {
            JsonNode? nodes = await machine.ExecuteAsync(
                "query-named-block-nodes", new JsonObject { ["flat"] = true }, cancellationToken);
            var images = new List<(string Path, string Node)>();
            foreach (string path in paths)
            {
                string? node = nodes?.AsArray().FirstOrDefault(one => IsFile(one, path))?["node-name"]
                    ?.GetValue<string>();
                if (node is null)
                {
                    return null;
                }

                images.Add((path, node));
            }

            changes = new DiskChanges(machine, socket, images);
            if (images.Count > 0)
            {
                await changes.RemoveLeftOversAsync(cancellationToken);
                File.Delete(socket);
                await machine.ExecuteAsync("nbd-server-start", new JsonObject
                {
                    ["addr"] = new JsonObject
                    {
                        ["type"] = "unix", ["data"] = new JsonObject { ["path"] = socket },
                    },
                }, cancellationToken);
                await changes.TransactAsync([.. images.Select(image => changes.Add(image.Node))]);
            }

            return changes;
        }
        catch (QmpException)
        {
            if (changes is not null)
            {
                await changes.DisposeAsync();
            }

            return null;
        }
    }

    /// <summary>Bytes that have changed since the beginning or the last <see cref="TakeAsync"/>, all images together.
    /// </summary>
    public async Task<long> CountAsync(CancellationToken cancellationToken)
    {
        if (IsEmpty)
        {
            return 0;
        }

        JsonNode? nodes = await _machine.ExecuteAsync(
            "query-named-block-nodes", new JsonObject { ["flat"] = true }, cancellationToken);
        return nodes?.AsArray().Where(node => _images.Any(image => image.Node == (string?)node?["node-name"]))
            .SelectMany(node => node!["dirty-bitmaps"]?.AsArray() ?? [])
            .Where(bitmap => (string?)bitmap?["name"] == Name(_generation))
            .Sum(bitmap => (long?)bitmap!["count"] ?? 0) ?? 0;
    }

    /// <summary>What has changed since the beginning or the last call; from now on it counts anew.</summary>
    /// <param name="isLast">Nothing counts any more: the guest stands still.</param>
    /// <returns>For each image what to read again, in bytes, ascending.</returns>
    /// <exception cref="IOException">QEMU does not tell.</exception>
    /// <exception cref="QmpException">QEMU refuses.</exception>
    public async Task<IReadOnlyDictionary<string, IReadOnlyList<(long From, long Length)>>> TakeAsync(bool isLast)
    {
        var taken = new Dictionary<string, IReadOnlyList<(long From, long Length)>>();
        if (IsEmpty)
        {
            return taken;
        }

        string old = Name(_generation);
        if (!isLast)
        {
            _generation++;
        }

        // In one transaction: no write is in neither of the two, nor lost between them.
        await TransactAsync([.. _images.SelectMany(image => (JsonNode[])[
            .. isLast ? (JsonNode[])[] : [Add(image.Node)],
            Action("block-dirty-bitmap-disable", image.Node, old)])]);
        foreach ((string path, string node) in _images)
        {
            taken[path] = await ReadAsync(node, old);
        }

        if (!isLast)
        {
            await TransactAsync([.. _images.Select(image => Action("block-dirty-bitmap-remove", image.Node, old))]);
        }

        return taken;
    }

    /// <remarks>Again is nothing: by then another one may have begun.</remarks>
    public async ValueTask DisposeAsync()
    {
        if (Interlocked.Exchange(ref _isDisposed, true) || _machine.Exited.IsCompleted || IsEmpty)
        {
            return;
        }

        try
        {
            await TryAsync("nbd-server-stop", null);
            await RemoveLeftOversAsync(CancellationToken.None);
        }
        catch (Exception e) when (e is Godwit.Migration.GodwitException or IOException or QmpException)
        {
            // QEMU has ended, or does not answer; the next one to come removes what is left.
        }

        File.Delete(_socket);
    }

    private static bool IsFile(JsonNode? node, string path)
    {
        string? driver = (string?)node?["drv"];
        string? file = (string?)node?["file"];
        return driver is "file" or "host_device" && file is not null && Path.GetFullPath(file) == path;
    }

    private static string Name(int generation) => $"godwit-{generation}";

    private JsonObject Add(string node)
    {
        JsonObject data = new()
        {
            ["node"] = node, ["name"] = Name(_generation), ["granularity"] = Granularity, ["persistent"] = false,
        };
        return new JsonObject { ["type"] = "block-dirty-bitmap-add", ["data"] = data };
    }

    private static JsonObject Action(string type, string node, string bitmap) => new()
    {
        ["type"] = type, ["data"] = new JsonObject { ["node"] = node, ["name"] = bitmap },
    };

    private Task<JsonNode?> TransactAsync(JsonNode[] actions) => _machine.ExecuteAsync(
        "transaction", new JsonObject { ["actions"] = new JsonArray(actions) }, CancellationToken.None);

    private async Task<IReadOnlyList<(long From, long Length)>> ReadAsync(string node, string bitmap)
    {
        string export = $"godwit-{_exports++}";
        await _machine.ExecuteAsync("block-export-add", new JsonObject
        {
            ["type"] = "nbd", ["id"] = export, ["name"] = export, ["node-name"] = node, ["writable"] = false,
            ["bitmaps"] = new JsonArray(bitmap),
        }, CancellationToken.None);
        try
        {
            return await Task.Run(() =>
            {
                try
                {
                    using NbdClient client = NbdClient.Open(_socket, export, bitmap);
                    return client.ReadDirty();
                }
                catch (SocketException e)
                {
                    throw new IOException($"QEMU's NBD server does not answer: {e.Message}", e);
                }
            });
        }
        finally
        {
            await TryAsync("block-export-del", new JsonObject { ["id"] = export, ["mode"] = "hard" });
            await WaitUntilGoneAsync(export);
        }
    }

    // Until then the bitmap is in use, and cannot be removed.
    private async Task WaitUntilGoneAsync(string export)
    {
        long begun = System.Diagnostics.Stopwatch.GetTimestamp();
        while (System.Diagnostics.Stopwatch.GetElapsedTime(begun) < ExportGone)
        {
            JsonNode? exports = await _machine.ExecuteAsync("query-block-exports", null, CancellationToken.None);
            if (exports?.AsArray().Any(one => (string?)one?["id"] == export) != true)
            {
                return;
            }

            await Task.Delay(1);
        }
    }

    // Of a daemon that ended in the middle as well.
    private async Task RemoveLeftOversAsync(CancellationToken cancellationToken)
    {
        JsonNode? nodes = await _machine.ExecuteAsync(
            "query-named-block-nodes", new JsonObject { ["flat"] = true }, cancellationToken);
        if (nodes is null)
        {
            return;
        }

        if (nodes.AsArray().SelectMany(node => node?["dirty-bitmaps"]?.AsArray() ?? [])
            .Any(bitmap => IsOurs(bitmap)))
        {
            await TryAsync("nbd-server-stop", null);
        }

        foreach (JsonNode? node in nodes.AsArray())
        {
            foreach (JsonNode? bitmap in (node?["dirty-bitmaps"]?.AsArray() ?? []).Where(IsOurs))
            {
                await TryAsync("block-dirty-bitmap-remove", new JsonObject
                {
                    ["node"] = (string?)node!["node-name"], ["name"] = (string?)bitmap!["name"],
                });
            }
        }
    }

    private static bool IsOurs(JsonNode? bitmap) =>
        ((string?)bitmap?["name"])?.StartsWith("godwit-", StringComparison.Ordinal) == true;

    private async Task TryAsync(string command, JsonObject? arguments)
    {
        try
        {
            await _machine.ExecuteAsync(command, arguments, CancellationToken.None);
        }
        catch (QmpException)
        {
            // There is none.
        }
    }
}
