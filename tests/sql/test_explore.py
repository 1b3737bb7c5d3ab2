import time, asyncpg
async def test_x(postgres):
    a = await asyncpg.connect(postgres.dsn)
    for n in range(5):
        t=time.perf_counter(); await a.execute(f"create database x{n}"); t1=time.perf_counter()
        await a.execute(f"drop database x{n} with (force)"); t2=time.perf_counter()
        await a.execute(f"create database x{n} strategy file_copy"); t3=time.perf_counter()
        await a.execute(f"drop database x{n} with (force)"); t4=time.perf_counter()
        print([round(x*1000) for x in (t1-t,t2-t1,t3-t2,t4-t3)])
    from tests.harness import run_service
    for n in range(5):
        t=time.perf_counter()
        async with run_service(dsn=postgres.dsn) as r:
            await r.eventually(lambda: r.service.watch.catalog is not None)
            t1=time.perf_counter()
        t2=time.perf_counter()
        print("service", round((t1-t)*1000), round((t2-t1)*1000))
