using System.Diagnostics;
using System.Text.Json;

namespace Godwit.GuestStreams.Tests;

public class RealQemuTests
{
    // Goal: QEMU takes a stream that we took apart and put together again, and ends up with the memory of the guest
    // that sent it. Method: the destination loads the rewritten stream, paused, and is then told to migrate in its
    // turn into a file, whose pages must be those of the vector.
    [Theory]
    [InlineData("q35-10.0", "pc-q35-10.0", "-device VGA,vgamem_mb=1")]
    [InlineData("q35-7.2-qemu-7.2", "pc-q35-7.2", "")]
    [InlineData("pc-9.2-uuid", "pc-i440fx-9.2", "-uuid 12345678-1234-1234-1234-123456789abc")]
    [InlineData("q35-10.0-running", "pc-q35-10.0", "-smp 2 -device virtio-balloon-pci")]
    public async Task Loads_a_rewritten_stream_and_gives_the_same_memory_back(
        string name, string machine, string devices)
    {
        CancellationToken cancel = TestContext.Current.CancellationToken;
        string? qemu = (Environment.GetEnvironmentVariable("PATH") ?? "").Split(':')
            .Select(folder => Path.Combine(folder, "qemu-system-x86_64")).FirstOrDefault(File.Exists);
        Assert.SkipWhen(qemu is null, "qemu-system-x86_64 is not installed (apt-get install qemu-system-x86)");
        DirectoryInfo folder = Directory.CreateTempSubdirectory("godwit-stream-");
        try
        {
            byte[] vector = Vectors.Load(name);
            string incoming = Path.Combine(folder.FullName, "in");
            string outgoing = Path.Combine(folder.FullName, "out");
            await File.WriteAllBytesAsync(incoming, Rewriter.Rewrite(vector, 11), cancel);
            var start = new ProcessStartInfo(qemu!)
            {
                RedirectStandardInput = true,
                RedirectStandardOutput = true,
                RedirectStandardError = true,
            };
            string arguments = $"-m 16 -nodefaults -display none -accel tcg -S -qmp stdio -machine {machine} "
                + $"{devices} -incoming defer";
            foreach (string argument in arguments.Split(' ', StringSplitOptions.RemoveEmptyEntries))
            {
                start.ArgumentList.Add(argument);
            }

            using Process process = Process.Start(start)!;
            try
            {
                Task<string> errors = process.StandardError.ReadToEndAsync(cancel);
                var qmp = new Qmp(process, errors);
                string? greeting = await process.StandardOutput.ReadLineAsync(cancel);
                if (greeting is null && (await errors).Contains("unsupported machine type", StringComparison.Ordinal))
                {
                    Assert.Skip($"the installed QEMU has no machine type {machine}");
                }

                await qmp.Run("""{"execute":"qmp_capabilities"}""", cancel);
                await qmp.Run(
                    $$$"""{"execute":"migrate-incoming","arguments":{"uri":"exec:cat {{{incoming}}}"}}""", cancel);
                // A guest that had never run at the source is in prelaunch again, any other one is paused.
                await qmp.Until("query-status", ["paused", "prelaunch"], cancel);
                // QEMU has completed when all is in the pipe; the file is whole when it has its name.
                string command = $"exec:cat > {outgoing}.part && mv {outgoing}.part {outgoing}";
                await qmp.Run($$$"""{"execute":"migrate","arguments":{"uri":"{{{command}}}"}}""", cancel);
                await qmp.Until("query-migrate", ["completed"], cancel);
                for (int i = 0; i < 1200 && !File.Exists(outgoing); i++)
                {
                    await Task.Delay(100, cancel);
                }

                Assert.True(File.Exists(outgoing), "the stream was not written to its end");
                await qmp.Run("""{"execute":"quit"}""", cancel);
                await process.WaitForExitAsync(cancel);
            }
            finally
            {
                if (!process.HasExited)
                {
                    process.Kill();
                }
            }

            Transcript sent = Transcript.Of(vector);
            Transcript returned = Transcript.Of(await File.ReadAllBytesAsync(outgoing, cancel));
            Assert.Equal(sent.Newest.Count, returned.Newest.Count);
            foreach (((int Block, long Page) page, byte[] content) in sent.Newest)
            {
                string block = sent.Head!.Blocks[page.Block].Name;
                int index = returned.Head!.Blocks.Single(b => b.Name == block).Index;
                Assert.True(
                    content.AsSpan().SequenceEqual(returned.Newest[(index, page.Page)]),
                    $"page {page.Page} of {block} differs");
            }
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    private sealed class Qmp(Process process, Task<string> errors)
    {
        public async Task<JsonElement> Run(string command, CancellationToken cancel)
        {
            await process.StandardInput.WriteLineAsync(command.AsMemory(), cancel);
            await process.StandardInput.FlushAsync(cancel);
            while (true)
            {
                string? line = await process.StandardOutput.ReadLineAsync(cancel);
                Assert.True(line is not null, $"QEMU ended at {command}: {(line is null ? await errors : "")}");
                using JsonDocument answer = JsonDocument.Parse(line!);
                if (answer.RootElement.TryGetProperty("return", out JsonElement value))
                {
                    return value.Clone();
                }

                Assert.False(answer.RootElement.TryGetProperty("error", out _), $"{command}: {line}");
            }
        }

        public async Task Until(string query, string[] wanted, CancellationToken cancel)
        {
            // A bound on patience, far beyond what it takes, not a promise about time.
            for (int i = 0; i < 1200; i++)
            {
                JsonElement answer = await Run($$"""{"execute":"{{query}}"}""", cancel);
                string? status = answer.TryGetProperty("status", out JsonElement value) ? value.GetString() : null;
                if (wanted.Contains(status))
                {
                    return;
                }

                Assert.NotEqual("failed", status);
                await Task.Delay(100, cancel);
            }

            Assert.Fail($"{query} never said {string.Join(" or ", wanted)}");
        }
    }
}
