using System.Collections.Concurrent;
using System.Diagnostics;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.Json.Nodes;
using Godwit.Migration;

namespace Godwit.Host.Qemu;

/// <summary>An event of QEMU's monitor.</summary>
/// <param name="ReceivedTimestamp">Stopwatch timestamp at which the event was read.</param>
public sealed record QmpEvent(string Name, JsonObject? Data, long ReceivedTimestamp);

/// <summary>QEMU refused a command.</summary>
public sealed class QmpException(string command, string errorClass, string description)
    : Exception($"QEMU refuses '{command}': {description}")
{
    public string Command { get; } = command;

    /// <summary>QEMU's class, for example <c>CommandNotFound</c> or <c>GenericError</c>.</summary>
    public string ErrorClass { get; } = errorClass;

    /// <summary>QEMU's own words.</summary>
    public string Description { get; } = description;
}

/// <summary>A connection to one QMP monitor.</summary>
/// <remarks>
/// A thread of its own reads, so that an event's timestamp is the instant of its arrival and not that of a free pool
/// thread. Commands may be issued from any thread; answers are matched by id, so they may overtake each other.
/// QEMU's messages are input like any other: a line longer than <see cref="QmpReader.LineBytesMax"/> ends the
/// connection, and a message of a shape not known here is passed over.
/// </remarks>
internal sealed class QmpClient : IDisposable
{
    internal static readonly TimeSpan CommandTimeout = TimeSpan.FromSeconds(30);

    private readonly string _name;
    private readonly Stream _stream;
    private readonly ConcurrentDictionary<long, Pending> _pending = new();
    private readonly SemaphoreSlim _writing = new(1);
    private readonly TaskCompletionSource<JsonObject> _greeting =
        new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly TaskCompletionSource _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private long _lastId;
    private volatile Exception? _end;

    private sealed record Pending(string Command, TaskCompletionSource<JsonNode?> Answer);

    private QmpClient(string name, Stream stream)
    {
        _name = name;
        _stream = stream;
    }

    /// <summary>Every event, in order, on the reader's thread; handlers must not block.</summary>
    internal event Action<QmpEvent>? EventReceived;

    /// <summary>QEMU's version by its greeting.</summary>
    internal Version Version { get; private set; } = new(0, 0);

    /// <summary>True when commands may be run out of band.</summary>
    internal bool OutOfBand { get; private set; }

    /// <summary>Ends, always successfully, when the connection has.</summary>
    internal Task Ended => _ended.Task;

    /// <summary>Connects to a monitor's Unix socket and negotiates.</summary>
    /// <param name="name">The guest, for messages.</param>
    internal static async Task<QmpClient> ConnectAsync(
        string name, string socketPath, Action<QmpEvent>? onEvent, CancellationToken cancellationToken)
    {
        Socket socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            await socket.ConnectAsync(new UnixDomainSocketEndPoint(socketPath), cancellationToken);
        }
        catch
        {
            socket.Dispose();
            throw;
        }
        return await OpenAsync(name, new NetworkStream(socket, ownsSocket: true), onEvent, cancellationToken);
    }

    /// <summary>Negotiates over a stream, which the client then owns.</summary>
    internal static async Task<QmpClient> OpenAsync(
        string name, Stream stream, Action<QmpEvent>? onEvent, CancellationToken cancellationToken)
    {
        QmpClient client = new(name, stream);
        if (onEvent is not null)
        {
            client.EventReceived += onEvent;
        }
        try
        {
            new Thread(client.Read, maxStackSize: 256 << 10) { IsBackground = true, Name = $"qmp {name}" }.Start();
            JsonObject greeting = await client._greeting.Task.WaitAsync(CommandTimeout, cancellationToken);
            client.TakeGreeting(greeting);
            JsonObject? enable = client.OutOfBand ? new JsonObject { ["enable"] = new JsonArray("oob") } : null;
            await client.ExecuteAsync("qmp_capabilities", enable, CommandTimeout, cancellationToken);
            return client;
        }
        catch (TimeoutException)
        {
            client.Dispose();
            throw new GodwitException("qemu-silent",
                $"QEMU of {name} sent no greeting within {CommandTimeout.TotalSeconds:0} s.",
                "Another program may hold its monitor; close that one, or look into QEMU's log.");
        }
        catch
        {
            client.Dispose();
            throw;
        }
    }

    /// <summary>Runs a command and gives its <c>return</c> value.</summary>
    /// <exception cref="QmpException">QEMU refused.</exception>
    /// <exception cref="GodwitException">
    /// <c>qemu-silent</c>: no answer in time; <c>qemu-ended</c>: QEMU is gone.
    /// </exception>
    internal Task<JsonNode?> ExecuteAsync(
        string command, JsonObject? arguments, TimeSpan timeout, CancellationToken cancellationToken) =>
        ExecuteAsync("execute", command, arguments, null, timeout, cancellationToken);

    /// <summary>The same, and QEMU gets an open file with it.</summary>
    internal Task<JsonNode?> ExecuteAsync(
        string command, JsonObject arguments, SafeHandle descriptor, TimeSpan timeout,
        CancellationToken cancellationToken) =>
        ExecuteAsync("execute", command, arguments, descriptor, timeout, cancellationToken);

    /// <summary>Runs a command past those that QEMU is busy with; only few commands allow it.</summary>
    internal Task<JsonNode?> ExecuteOutOfBandAsync(
        string command, JsonObject? arguments, TimeSpan timeout, CancellationToken cancellationToken) =>
        ExecuteAsync(OutOfBand ? "exec-oob" : "execute", command, arguments, null, timeout, cancellationToken);

    private async Task<JsonNode?> ExecuteAsync(
        string verb, string command, JsonObject? arguments, SafeHandle? descriptor, TimeSpan timeout,
        CancellationToken cancellationToken)
    {
        long id = Interlocked.Increment(ref _lastId);
        JsonObject message = new() { [verb] = command, ["id"] = id };
        if (arguments is not null)
        {
            message["arguments"] = arguments.DeepClone();
        }
        Pending pending = new(command, new(TaskCreationOptions.RunContinuationsAsynchronously));
        _pending[id] = pending;
        try
        {
            // The reader fails what is pending after it has set _end: whoever registers later sees _end here.
            if (_end is { } end)
            {
                throw Ending(command, end);
            }
            byte[] line = Encoding.UTF8.GetBytes(message.ToJsonString() + "\n");
            await WriteAsync(line, descriptor, command, cancellationToken);
            return await pending.Answer.Task.WaitAsync(timeout, cancellationToken);
        }
        catch (TimeoutException)
        {
            throw new GodwitException("qemu-silent",
                $"QEMU of {_name} has not answered '{command}' within {timeout.TotalSeconds:0.#} s.",
                "The guest is left as it is. Look into QEMU's log and at the load of the host.");
        }
        finally
        {
            _pending.TryRemove(id, out _);
        }
    }

    private async Task WriteAsync(
        byte[] line, SafeHandle? descriptor, string command, CancellationToken cancellationToken)
    {
        await _writing.WaitAsync(cancellationToken);
        try
        {
            // Not cancellable by the caller: half a command on the wire would spoil every later one.
            using CancellationTokenSource deadline = new(CommandTimeout);
            int sent = 0;
            while (descriptor is not null && sent == 0)
            {
                SafeSocketHandle socket = ((NetworkStream)_stream).Socket.SafeHandle;
                sent = DescriptorPassing.TrySend(socket, line, descriptor);
                if (sent == 0)
                {
                    await Task.Delay(1, deadline.Token);
                }
            }

            await _stream.WriteAsync(line.AsMemory(sent), deadline.Token);
        }
        catch (Exception e) when (e is IOException or ObjectDisposedException or OperationCanceledException)
        {
            _stream.Dispose();
            throw Ending(command, e);
        }
        finally
        {
            _writing.Release();
        }
    }

    private void Read()
    {
        Exception end = new EndOfStreamException("the monitor was closed");
        byte[] buffer = new byte[64 << 10];
        QmpReader reader = new();
        try
        {
            int read;
            while ((read = _stream.Read(buffer)) > 0)
            {
                long received = Stopwatch.GetTimestamp();
                reader.Feed(buffer.AsSpan(0, read));
                while (reader.TryTake(out JsonObject message))
                {
                    Take(message, received);
                }
            }
        }
        catch (Exception e)
        {
            end = e;
        }
        _end = end;
        foreach (Pending pending in _pending.Values)
        {
            pending.Answer.TrySetException(Ending(pending.Command, end));
        }
        _greeting.TrySetException(Ending("qmp_capabilities", end));
        _ = _greeting.Task.Exception;
        _ended.TrySetResult();
    }

    private void Take(JsonObject message, long received)
    {
        if (message["event"] is JsonValue name && name.TryGetValue(out string? eventName))
        {
            EventReceived?.Invoke(new QmpEvent(eventName, message["data"] as JsonObject, received));
        }
        else if (message["QMP"] is JsonObject greeting)
        {
            _greeting.TrySetResult(greeting);
        }
        else if (message["id"] is JsonValue idValue && idValue.TryGetValue(out long id)
            && _pending.TryGetValue(id, out Pending? pending))
        {
            if (message["error"] is JsonObject error)
            {
                pending.Answer.TrySetException(new QmpException(
                    pending.Command, Text(error["class"], "GenericError"), Text(error["desc"], "no description")));
                _ = pending.Answer.Task.Exception;
            }
            else
            {
                pending.Answer.TrySetResult(message["return"]);
            }
        }
    }

    private void TakeGreeting(JsonObject greeting)
    {
        if ((greeting["version"] as JsonObject)?["qemu"] is JsonObject version)
        {
            Version = new Version(Number(version["major"]), Number(version["minor"]), Number(version["micro"]));
        }
        OutOfBand = greeting["capabilities"] is JsonArray capabilities
            && capabilities.Any(capability => Text(capability, "") == "oob");
    }

    private static int Number(JsonNode? node) =>
        node is JsonValue value && value.TryGetValue(out int number) && number >= 0 ? number : 0;

    private static string Text(JsonNode? node, string otherwise) =>
        node is JsonValue value && value.TryGetValue(out string? text) ? text : otherwise;

    private GodwitException Ending(string command, Exception cause) => new("qemu-ended",
        $"QEMU of {_name} ended its monitor while '{command}' was under way: {cause.Message}.",
        "QEMU's log in the guest's runtime directory says why.", cause);

    /// <summary>Closes the connection; QEMU runs on and takes the next one.</summary>
    public void Dispose()
    {
        _stream.Dispose();
    }
}
