using System.CommandLine;
using Godwit.Api.V1;
using Google.Protobuf;
using Grpc.Core;
using Microsoft.Win32.SafeHandles;

namespace Godwit.Cli.Commands;

/// <summary><c>godwit vm console</c>: the guest's serial console in this terminal.</summary>
internal static class ConsoleCommand
{
    /// <summary>Ctrl-], as in telnet and virsh.</summary>
    private const byte Escape = 0x1d;

    public static Command Build(GodwitCommand godwit)
    {
        var name = GuestCommands.GuestArgument();
        return godwit.Verb(
            "console", "Attach to a guest's serial console; Ctrl-] detaches.", ["godwit vm console web1"], [name],
            (session, cancellation) => AttachAsync(session, session.Get(name), cancellation));
    }

    private static async Task<int> AttachAsync(Session session, string name, CancellationToken cancellation)
    {
        using var call = session.Client.Control.AttachConsole(cancellationToken: cancellation);
        try
        {
            // The name goes first; an unknown guest is refused before the terminal is touched.
            await call.RequestStream.WriteAsync(new ConsoleInput { Name = name }, cancellation);
            using var raw = RawTerminal.TryEnter();
            if (raw is not null)
            {
                session.Note($"attached to {name}; Ctrl-] detaches\r");
            }

            var output = ShowAsync(call, cancellation);
            var input = SendAsync(call, isTerminal: raw is not null, cancellation);
            if (await Task.WhenAny(output, input) == input)
            {
                await input;
                await call.RequestStream.CompleteAsync();
                if (raw is null)
                {
                    // What was piped in is answered before the end.
                    await output;
                }
            }
            else
            {
                await output;
            }

            raw?.Dispose();
            if (raw is not null)
            {
                session.Note($"\ndetached from {name}");
            }

            return 0;
        }
        catch (RpcException failure)
        {
            throw session.Client.Translate(failure, cancellation);
        }
    }

    private static async Task ShowAsync(
        AsyncDuplexStreamingCall<ConsoleInput, ConsoleOutput> call, CancellationToken cancellation)
    {
        // The bytes go out as they are: a serial console is not text in any encoding we could know.
        await using var screen = Console.OpenStandardOutput();
        while (await call.ResponseStream.MoveNext(cancellation))
        {
            await screen.WriteAsync(call.ResponseStream.Current.Data.Memory, cancellation);
            await screen.FlushAsync(cancellation);
        }
    }

    private static async Task SendAsync(
        AsyncDuplexStreamingCall<ConsoleInput, ConsoleOutput> call, bool isTerminal, CancellationToken cancellation)
    {
        // Not the console class's stream: on a terminal that one edits lines, and so does anything but raw reads.
        using var descriptor = new SafeFileHandle(0, ownsHandle: false);
        await using var keyboard = new FileStream(descriptor, FileAccess.Read, bufferSize: 0);
        byte[] buffer = new byte[4096];
        while (true)
        {
            // A read of standard input cannot be cancelled; on a thread of its own it may stay behind at the end.
            int count = await Task.Run(() => keyboard.Read(buffer), cancellation);
            int end = isTerminal ? buffer.AsSpan(0, count).IndexOf(Escape) : -1;
            int length = end >= 0 ? end : count;
            if (length > 0)
            {
                await call.RequestStream.WriteAsync(
                    new ConsoleInput { Data = ByteString.CopyFrom(buffer, 0, length) }, cancellation);
            }

            if (count == 0 || end >= 0)
            {
                return;
            }
        }
    }
}
