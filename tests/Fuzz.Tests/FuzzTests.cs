using System.Diagnostics;
using System.Globalization;
using System.Security.Cryptography;
using Godwit.Fuzz.Tests.Targets;

namespace Godwit.Fuzz.Tests;

// Goal: whatever bytes come, a parser accepts them, keeping its promises, or refuses them as documented.
// Method: the stored corpus, every past crash in it, and seeded mutations of it. Each target checks what it accepts.
// Replay: a crash is stored in the corpus as crash-HASH; it is an input of every run from then on.
public class FuzzTests
{
    public static TheoryData<string> Names => [.. FuzzTarget.All.Select(target => target.Name)];

    private static int Setting(string name, int otherwise) => Environment.GetEnvironmentVariable(name) is { } text
        ? int.Parse(text, CultureInfo.InvariantCulture) : otherwise;

    [Theory]
    [MemberData(nameof(Names))]
    public void The_corpus_is_judged_as_its_names_say(string name)
    {
        FuzzTarget target = Find(name);
        var corpus = target.Corpus();
        Assert.Contains(corpus, entry => entry.File.StartsWith("good-", StringComparison.Ordinal));
        foreach ((string file, byte[] bytes) in corpus)
        {
            bool accepted = target.Run(bytes);
            switch (file[..file.IndexOf('-', StringComparison.Ordinal)])
            {
                case "good": Assert.True(accepted, $"{name}/{file} is refused"); break;
                case "bad": Assert.False(accepted, $"{name}/{file} is accepted"); break;
                case "crash": break;
                default: Assert.Fail($"{name}/{file} is called neither good-, bad- nor crash-"); break;
            }
        }
    }

    [Theory]
    [MemberData(nameof(Names))]
    public void Mutations_are_refused_or_keep_every_promise(string name)
    {
        FuzzTarget target = Find(name);
        int seed = Setting("GODWIT_FUZZ_SEED", 20261124);
        int runs = Setting("GODWIT_FUZZ_RUNS", target.Runs);
        long started = Stopwatch.GetTimestamp();
        (int accepted, byte[]? crash, Exception? reason) = Drive(target, seed, runs);
        double seconds = Stopwatch.GetElapsedTime(started).TotalSeconds;
        if (crash is not null)
        {
            string file = $"crash-{Convert.ToHexStringLower(SHA256.HashData(crash))[..12]}";
            File.WriteAllBytes(Path.Combine(target.Folder, file), crash);
            Assert.Fail($"{name} crashes on {crash.Length} bytes, kept in corpus/{name}/{file}; seed {seed}: {reason}");
        }

        TestContext.Current.TestOutputHelper?.WriteLine(
            $"{name}: {runs} mutations, {accepted} accepted, {runs / seconds:F0}/s");
        Assert.True(accepted > 0 && accepted < runs, $"{accepted} of {runs} mutations of {name} were accepted");
    }

    // Goal: how a stream is cut on its way never matters. Method: what a real QEMU said, shortened, and our own
    // encoders' output, whole, in two pieces at every offset, and byte by byte. Control messages, which come over TLS,
    // are cut in Host.Tests; whole captured streams in GuestStreams.Tests.
    [Fact]
    public void Every_cut_gives_the_same()
    {
        void Check(string name, Func<byte[], int, int, string> outcome)
        {
            foreach ((string file, byte[] bytes) in Find(name).Corpus())
            {
                string whole = outcome(bytes, bytes.Length, 1);
                Assert.True(whole == outcome(bytes, 0, 1), $"{name}/{file} byte by byte");
                for (int cut = 1; cut < bytes.Length; cut++)
                {
                    Assert.True(whole == outcome(bytes, cut, bytes.Length), $"{name}/{file} cut at {cut}");
                }
            }
        }

        Check("qemu-stream", (bytes, first, then) => QemuStreamTarget.Outcome(bytes, first, then));
        Check("return-path", (bytes, first, then) => ReturnPathTarget.Outcome(bytes, first, then));
        Check("qmp", (bytes, first, then) => QmpTarget.Outcome(bytes, first, then));
    }

    // Goal: the driver finds what it is there to find. Method: parsers with a planted mistake each.
    [Theory]
    [InlineData("reads what a length says")]
    [InlineData("takes memory for what a length says")]
    [InlineData("fails at one value")]
    public void A_planted_mistake_is_found(string mistake)
    {
        var parser = new FuzzTarget("return-path", bytes =>
        {
            if (bytes.Length < 4)
            {
                return false;
            }

            int length = (bytes[2] << 8) | bytes[3];
            return mistake switch
            {
                "reads what a length says" => bytes.Slice(4, length).Length == length,
                "takes memory for what a length says" => new byte[length << 8].Length < 0,
                _ => bytes.Length < 40 || bytes[30] != 0 ? true : throw new InvalidOperationException(),
            };
        }, 10_000);
        Assert.NotNull(Drive(parser, 1, parser.Runs).Crash);
    }

    [Fact]
    public void A_seed_makes_the_same_inputs_again()
    {
        byte[][] corpus = [.. Find("qmp").Corpus().Select(entry => entry.Bytes)];
        var (first, again, other) = (new Mutator(5, corpus), new Mutator(5, corpus), new Mutator(6, corpus));
        int different = 0;
        for (int run = 0; run < 1000; run++)
        {
            byte[] input = first.Next();
            Assert.Equal(input, again.Next());
            different += input.AsSpan().SequenceEqual(other.Next()) ? 0 : 1;
        }

        Assert.True(different > 900);
    }

    private static FuzzTarget Find(string name) => FuzzTarget.All.Single(target => target.Name == name);

    private static (int Accepted, byte[]? Crash, Exception? Reason) Drive(FuzzTarget target, int seed, int runs)
    {
        var mutator = new Mutator(seed, [.. target.Corpus().Select(entry => entry.Bytes)]);
        int accepted = 0;
        for (int run = 0; run < runs; run++)
        {
            byte[] input = mutator.Next();
            try
            {
                accepted += target.Run(input) ? 1 : 0;
            }
            catch (Exception e)
            {
                return (accepted, input, e);
            }
        }

        return (accepted, null, null);
    }
}
