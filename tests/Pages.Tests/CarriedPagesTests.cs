using CsCheck;

namespace Godwit.Pages.Tests;

public class CarriedPagesTests
{
    // Goal: the pool keeps the newest content of each page and nothing else, through collisions and removals. Method:
    // random operations against a dictionary, on a pool so small that it is often full and its table often wraps.
    [Fact]
    public void Behaves_as_a_bounded_dictionary()
    {
        Gen.Select(
            Gen.Int[1, 24], Gen.Select(Gen.Int[0, 9], Gen.Int[0, 3], Gen.Int[0, 15], Gen.Byte).Array[0, 300]).Sample(
            (slots, operations) =>
            {
                var pool = new CarriedPages(slots);
                var model = new Dictionary<(int, long), byte>();
                byte[] taken = new byte[Page.Size];
                foreach ((int operation, int block, int number, byte value) in operations)
                {
                    var page = new PageNumber(number * 7L);
                    (int, long) key = (block, page.Value);
                    switch (operation)
                    {
                        case <= 5:
                            bool fits = model.ContainsKey(key) || model.Count < pool.SlotsMax;
                            Assert.Equal(fits, pool.TryPut(block, page, Filled(value)));
                            if (fits)
                            {
                                model[key] = value;
                            }

                            break;
                        case 6 or 7:
                            Array.Clear(taken);
                            bool held = model.Remove(key, out byte content);
                            Assert.Equal(held, pool.TryTake(block, page, taken));
                            Assert.Equal(Filled(content), taken);
                            break;
                        case 8:
                            Assert.Equal(model.Remove(key), pool.Drop(block, page));
                            break;
                        default:
                            if (value < 16)
                            {
                                pool.Grow(pool.SlotsMax + (value * 20));
                            }

                            break;
                    }

                    Assert.Equal(model.Count, pool.Count);
                    Assert.Equal(pool.SlotsMax - model.Count, pool.Free);
                }

                foreach (((int block, long page), byte content) in model)
                {
                    Assert.True(pool.TryTake(block, new PageNumber(page), taken));
                    Assert.Equal(Filled(content), taken);
                }

                Assert.Equal(0, pool.Count);
            },
            iter: 400);
    }

    [Fact]
    public void Putting_and_taking_allocate_nothing()
    {
        var pool = new CarriedPages(1000);
        byte[] page = new byte[Page.Size];
        Assert.Equal(0, Allocations.Least(Churn));

        void Churn()
        {
            for (int i = 0; i < 5000; i++)
            {
                pool.TryPut(i % 3, new PageNumber(i * 31 % 4001), page);
                pool.TryTake((i + 1) % 3, new PageNumber((i - 500) * 31L % 4001 is var p and >= 0 ? p : 0), page);
            }
        }
    }

    [Fact]
    public void Wrong_sizes_and_places_are_refused()
    {
        var pool = new CarriedPages(4);
        Assert.Throws<ArgumentException>(() => pool.TryPut(0, new PageNumber(0), new byte[100]));
        Assert.Throws<ArgumentOutOfRangeException>(() => pool.TryPut(-1, new PageNumber(0), new byte[Page.Size]));
        Assert.Throws<ArgumentOutOfRangeException>(
            () => pool.TryPut(RamBlock.CountMax, new PageNumber(0), new byte[Page.Size]));
        Assert.Throws<ArgumentOutOfRangeException>(
            () => pool.TryPut(0, new PageNumber(RamBlock.LengthMax / Page.Size), new byte[Page.Size]));
        Assert.Throws<ArgumentOutOfRangeException>(() => pool.Grow(3));
    }

    private static byte[] Filled(byte value)
    {
        byte[] page = new byte[Page.Size];
        Array.Fill(page, value);
        return page;
    }
}
